"""``gsm8k_format_verifier``: a result marked as GSM8K marks it."""

from __future__ import annotations

import re

from compose_rl.rewards.types import RewardedSample
from compose_rl.rewards.verifier import Verifier

__all__ = ["GSM8KFormatVerifier"]

_MARKED = re.compile(r"####[^\n]*\d")


class GSM8KFormatVerifier(Verifier):
    """The answer has ``####`` with a number behind it, on the same line."""

    def holds(self, sample: RewardedSample) -> bool:
        return _MARKED.search(sample.answer) is not None
