"""What the verifiers share: a check that holds or not, and the points for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from compose_rl.config.reward_types import Verifier as Settings
from compose_rl.rewards.types import RewardedSample, Score

__all__ = ["Verifier"]


class Verifier:
    """``reward`` for an answer whose check holds, else 0."""

    batched: ClassVar[bool] = False

    def __init__(self, settings: Settings) -> None:
        self._reward = settings.reward

    def holds(self, sample: RewardedSample) -> bool:
        """Whether the answer is right.

        Raises:
            ValueError: the known answer is missing or makes no sense.
        """
        raise NotImplementedError

    def __call__(self, samples: Sequence[RewardedSample]) -> Sequence[Score]:
        return [self._reward if self.holds(sample) else 0.0 for sample in samples]
