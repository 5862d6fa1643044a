"""``math_verifier``: the same mathematical value as the known answer."""

from __future__ import annotations

import logging
from typing import Any

from compose_rl.rewards.boxed import last_boxed
from compose_rl.rewards.types import RewardedSample
from compose_rl.rewards.verifier import Verifier

__all__ = ["MathVerifier", "same_value"]


class MathVerifier(Verifier):
    r"""What the answer's last ``\boxed`` holds equals the known answer, as text or as mathematics."""

    def holds(self, sample: RewardedSample) -> bool:
        known = last_boxed(sample.reference) or sample.reference.strip()
        if not known:
            raise ValueError("verified_answer is empty")
        given = last_boxed(sample.answer)
        return bool(given) and same_value(known, given)


def same_value(known: str, given: str) -> bool:
    """Whether two pieces of LaTeX mean the same (math-verify, on sympy).

    It can take for ever, as for 2^{10^{10}}: the time limit is the caller's.
    """
    if known.split() == given.split():
        return True
    # Half a second and sympy: not for those who do not need it.
    import math_verify

    # It says in every call that the time limit is ours.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    left, right = (_parsed(math_verify, text) for text in (known, given))
    return bool(math_verify.verify(left, right, timeout_seconds=None))


def _parsed(math_verify: Any, text: str) -> Any:
    return math_verify.parse(f"${text.strip().strip('$')}$", parsing_timeout=None)
