"""``gsm8k_verifier``: the right number (GSM8K, Cobbe et al., arXiv 2110.14168)."""

from __future__ import annotations

from compose_rl.rewards.final_number import final_number
from compose_rl.rewards.types import RewardedSample
from compose_rl.rewards.verifier import Verifier

__all__ = ["GSM8KVerifier"]


class GSM8KVerifier(Verifier):
    """The answer's final number is the known answer's."""

    def holds(self, sample: RewardedSample) -> bool:
        known = final_number(sample.reference)
        if known is None:
            raise ValueError(f"verified_answer={sample.reference!r} has no number")
        return final_number(sample.answer) == known
