"""``output_length``: longer answers get more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from compose_rl.config.reward_types import OutputLength as Settings
from compose_rl.rewards.types import RewardedSample, Score

__all__ = ["OutputLength"]


class OutputLength:
    """Tokens of the answer / ``max_gen_len``."""

    batched: ClassVar[bool] = False

    def __init__(self, settings: Settings) -> None:
        self._longest = settings.max_gen_len

    def __call__(self, samples: Sequence[RewardedSample]) -> Sequence[Score]:
        return [len(sample.answer_tokens) / self._longest for sample in samples]
