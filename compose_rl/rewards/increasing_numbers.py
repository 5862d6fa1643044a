"""``increasing_numbers``: a toy task with a known optimum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from compose_rl.config.reward_types import RewardSettings
from compose_rl.rewards.types import RewardedSample, Score

__all__ = ["IncreasingNumbers"]


class IncreasingNumbers:
    """The share of an answer's words that are its opening run of ever greater numbers: 0 to 1.

    Words that are no numbers are passed over; the run ends with the first number that is not greater.
    """

    batched: ClassVar[bool] = False

    def __init__(self, settings: RewardSettings) -> None:
        pass

    def __call__(self, samples: Sequence[RewardedSample]) -> Sequence[Score]:
        return [increasing_share(sample.answer) for sample in samples]


def increasing_share(text: str) -> float:
    """Length of the opening run of increasing numbers / words."""
    words = text.split()
    run = 0
    last = float("-inf")
    for word in words:
        number = _number(word)
        if number is None:
            continue
        if not number > last:
            break
        run, last = run + 1, number
    return run / len(words) if words else 0.0


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
