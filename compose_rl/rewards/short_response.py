"""``short_response_reward``: points for an answer that is short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from compose_rl.config.reward_types import ShortResponse as Settings
from compose_rl.rewards.types import RewardedSample, Score

__all__ = ["ShortResponse"]


class ShortResponse:
    """``reward`` for an answer of at most ``len_threshold`` tokens."""

    batched: ClassVar[bool] = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __call__(self, samples: Sequence[RewardedSample]) -> Sequence[Score]:
        settings = self._settings
        short = (len(sample.answer_tokens) <= settings.len_threshold for sample in samples)
        return [settings.reward if holds else 0.0 for holds in short]
