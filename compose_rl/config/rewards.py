"""``variables.rewards`` of online RL, checked before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compose_rl.config.functions import module_functions
from compose_rl.config.reward_types import (
    REWARDS,
    ComposerRewardModel,
    Function,
    Registered,
    RewardModel,
    RewardSettings,
)
from compose_rl.config.schema import parse, unknown_key
from compose_rl.errors import UserError
from compose_rl.store.manifest import digest

__all__ = ["function_source", "models_by_place", "parse_rewards", "reward_code", "wants_reward_model"]


def parse_rewards(
    rewards: Mapping[str, Mapping[str, Any]], code_paths: Sequence[str] | None = None
) -> dict[str, RewardSettings]:
    """The typed settings of ``variables.rewards``, by the rewards' names.

    Args:
        code_paths: files that may register rewards of their own; with them an unknown name passes.

    Raises:
        UserError: no such reward, no such function, a wrong key or value.
    """
    return {name: _parse_reward(name, keys, bool(code_paths)) for name, keys in rewards.items()}


def _parse_reward(name: str, keys: Mapping[str, Any], may_be_registered: bool) -> RewardSettings:
    where = f"variables.rewards.{name}"
    kind = keys.get("reward_type")
    if not isinstance(kind, str):
        raise UserError(f"{where}: reward_type={kind!r}: name one of {', '.join(sorted(REWARDS))}")
    if kind in REWARDS:
        return parse(REWARDS[kind], keys, where)
    if "." in kind:
        function_source(kind, where)
        return parse(Function, keys, where)
    if may_be_registered:
        return parse(Registered, keys, where)
    raise UserError(
        unknown_key(kind, list(REWARDS), f"{where}.reward_type")
        + "; name a function by its dotted path, or in code_paths the file that registers a class"
    )


def function_source(path: str, where: str) -> Path:
    """The source file of the function ``package.module.function``, found without running its module.

    Raises:
        UserError: there is no such module, or no such function in it.
    """
    module, _, function = path.rpartition(".")
    found = module_functions(module)
    if found is None:
        raise UserError(
            f"{where}: reward_type='{path}': no module '{module}'; install it or put its folder on PYTHONPATH"
        )
    source, names = found
    if function not in names:
        raise UserError(
            f"{where}: reward_type='{path}': {source} has no function '{function}';"
            f" it has: {', '.join(sorted(names)) or 'none'}"
        )
    return source


def reward_code(rewards: Mapping[str, RewardSettings]) -> dict[str, str]:
    """SHA-256 of what the rewards name beside settings: functions' source files, by dotted path."""
    functions = {s.reward_type for s in rewards.values() if isinstance(s, Function)}
    return {
        path: digest(function_source(path, "variables.rewards").read_bytes()) for path in sorted(functions)
    }


def wants_reward_model(rewards: Mapping[str, RewardSettings]) -> list[str]:
    """Names of the rewards that are the stage's input ``reward_model``."""
    return [name for name, s in rewards.items() if isinstance(s, RewardModel) and s.model is None]


def models_by_place(rewards: Mapping[str, RewardSettings]) -> list[str]:
    """Names of the rewards that are a model at a path, or of a name on a hub, whatever lies there."""
    return [
        name
        for name, s in rewards.items()
        if isinstance(s, ComposerRewardModel) or (isinstance(s, RewardModel) and s.model is not None)
    ]
