"""``mcqa_verifier``: the right letter of a multiple choice."""

from __future__ import annotations

import re

from compose_rl.rewards.boxed import last_boxed
from compose_rl.rewards.types import RewardedSample
from compose_rl.rewards.verifier import Verifier

__all__ = ["MCQAVerifier", "chosen_letter"]

_ALONE = r"[*_(\[{\s]*([A-J])(?![A-Za-z'\u2019])"
_SAID = re.compile(rf"(?i:answer|choice|option)(?i:\s+is|\s*:|\s+would\s+be)*[:\s]*(?:option\s+)?{_ALONE}")
_MARKED = re.compile(r"[(\[]([A-J])[)\]]|(?:^|\n)\s*\**([A-J])(?:[).:]|\**\s*$)")
_START = re.compile(rf"^{_ALONE}")


class MCQAVerifier(Verifier):
    """The answer's letter, A to J, is the known answer's."""

    def holds(self, sample: RewardedSample) -> bool:
        known = _START.match(sample.reference.strip())
        if known is None:
            raise ValueError(f"verified_answer={sample.reference!r} does not start with a letter from A to J")
        return chosen_letter(sample.answer) == known[1]


def chosen_letter(text: str) -> str | None:
    r"""The letter that an answer chooses.

    The first of these that is there, each as it stands last: ``\boxed{B}``; "answer is B" and the like;
    ``(B)``, or a line that starts with ``B.``.
    """
    boxed = last_boxed(text)
    letter = _START.match(re.sub(r"^\\text\s*", "", boxed)) if boxed else None
    if letter is not None:
        return letter[1]
    for pattern in (_SAID, _MARKED):
        found = list(pattern.finditer(text))
        if found:
            return next(group for group in found[-1].groups() if group)
    return None
