r"""``math_format_verifier``: a result in ``\boxed{...}``."""

from __future__ import annotations

from compose_rl.rewards.boxed import last_boxed
from compose_rl.rewards.types import RewardedSample
from compose_rl.rewards.verifier import Verifier

__all__ = ["MathFormatVerifier"]


class MathFormatVerifier(Verifier):
    r"""The answer has a ``\boxed`` that is closed and not empty."""

    def holds(self, sample: RewardedSample) -> bool:
        return bool(last_boxed(sample.answer))
