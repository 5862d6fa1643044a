"""A user's function as a reward: ``(prompt, answer, reference) -> float``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import ClassVar

from compose_rl.config.reward_types import Function as Settings
from compose_rl.rewards.types import RewardedSample, Score

__all__ = ["FunctionReward"]


class FunctionReward:
    """Calls the function in the process that judges; only there is its module imported."""

    batched: ClassVar[bool] = False

    def __init__(self, settings: Settings) -> None:
        self._module, _, self._name = settings.reward_type.rpartition(".")

    def __call__(self, samples: Sequence[RewardedSample]) -> Sequence[Score]:
        function: Callable[[str, str, str], float] = getattr(
            importlib.import_module(self._module), self._name
        )
        return [float(function(sample.prompt, sample.answer, sample.reference)) for sample in samples]
