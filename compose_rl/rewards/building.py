"""From settings to rewards."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from compose_rl.config.reward_types import REWARDS, Function, RewardSettings
from compose_rl.errors import UserError
from compose_rl.rewards.functions import FunctionReward
from compose_rl.rewards.worker import Recipe

__all__ = ["RewardContext", "recipe", "reward_class"]


@dataclass(frozen=True)
class RewardContext:
    """What a reward that judges in the trainer's process gets beside its own keys."""

    tokenizer: Any
    """The policy's."""
    reward_model: Path | None = None
    """Folder of the stage's input ``reward_model``."""
    device: str = "cpu"
    """Where models run."""


def reward_class(settings: RewardSettings) -> Any:
    """The class behind a ``reward_type``, without LLM Foundry for those that are this project's own.

    Raises:
        UserError: nothing registers it.
    """
    kind = settings.reward_type
    if isinstance(settings, Function):
        return FunctionReward
    if kind in REWARDS:
        (found,) = entry_points(group="llmfoundry_rewards", name=kind)
        return found.load()
    from compose_rl.rewards.registry import rewards

    if kind not in rewards:
        known = ", ".join(sorted(rewards.get_all()))
        raise UserError(f"variables.rewards: reward_type='{kind}' is not registered; there are: {known}")
    return rewards.get(kind)


def recipe(made: Any, settings: RewardSettings) -> Recipe:
    """How another process makes the reward ``made(settings)``."""
    found = getattr(sys.modules.get(made.__module__), made.__name__, None) is made
    file = None if found else made.__call__.__code__.co_filename
    return Recipe(made.__module__, made.__name__, settings, file)
