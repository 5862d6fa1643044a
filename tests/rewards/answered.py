"""Answers to be rewarded, settings and managers, in a line each."""

from __future__ import annotations

from typing import Any

from compose_rl.config.online_rl import OnlineVariables
from compose_rl.config.rewards import parse_rewards
from compose_rl.rewards.building import RewardContext
from compose_rl.rewards.manager import RewardManager
from compose_rl.rewards.types import RewardedSample


def answered(
    answer: str = "", reference: str | None = None, tokens: int = 3, finished: bool = True, **columns: Any
) -> RewardedSample:
    """An answer of ``tokens`` tokens to the prompt "Question?"."""
    if reference is not None:
        columns["verified_answer"] = reference
    return RewardedSample("Question?", answer, (7, 8), tuple(range(2, 2 + tokens)), finished, columns)


def manager(rewards: dict[str, Any], context: RewardContext | None = None, **variables: Any) -> RewardManager:
    """A manager with one process."""
    settings = {"max_gen_len": 8, "num_unique_prompts_per_iter": 1, "max_lost_fraction": 1.0} | variables
    return RewardManager(
        parse_rewards(rewards), OnlineVariables(**settings), context or RewardContext(None), workers=1
    )
