"""LLM Foundry's registry ``rewards``: where a file in ``code_paths`` puts a reward of its own."""

from __future__ import annotations

from llmfoundry.utils.registry_utils import create_registry

from compose_rl.rewards.types import Reward

__all__ = ["rewards"]

rewards = create_registry(
    "llmfoundry",
    "rewards",
    generic_type=type[Reward],
    entry_points=True,
    description="Rewards of online RL, by their reward_type; see compose_rl/rewards/types.py.",
)
