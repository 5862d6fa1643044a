"""What the loop is made of, from the document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from composer.utils import get_device

from compose_rl.config.online_rl import OnlineVariables
from compose_rl.config.rewards import parse_rewards
from compose_rl.errors import UserError
from compose_rl.rewards.building import RewardContext
from compose_rl.rewards.manager import RewardManager
from compose_rl.rollouts.hf import stop_tokens
from compose_rl.rollouts.types import Sampling

__all__ = ["make_rewards", "sampling_of"]


def make_rewards(
    variables: OnlineVariables,
    tokenizer: Any,
    *,
    reward_model: Path | None = None,
    code_paths: Sequence[str] | None = None,
) -> RewardManager:
    """The rewards of ``variables``, ready to judge; a reward model that is given is one of them.

    Raises:
        UserError: there is none, or one that cannot be made.
        TransientError: a server that is not there.
    """
    rewards = dict(variables.rewards)
    if reward_model is not None and not any(
        keys.get("reward_type") == "reward_model" for keys in rewards.values()
    ):
        rewards["reward_model"] = {"reward_type": "reward_model"}
    settings = parse_rewards(rewards, code_paths)
    if not settings:
        raise UserError("variables.rewards is empty: nothing to learn from; name a reward")
    device = "cuda" if get_device(None).name == "gpu" else "cpu"
    context = RewardContext(tokenizer=tokenizer, reward_model=reward_model, device=device)
    return RewardManager(settings, variables, context)


def sampling_of(variables: OnlineVariables, policy: Any) -> Sampling:
    """How tokens are chosen, and which end an answer: those given, else the model's, else the tokenizer's.

    Raises:
        UserError: none is known.
    """
    stop = variables.eos_token_ids
    if stop is None:
        stop = stop_tokens(policy.model, policy.tokenizer)
    if not stop:
        raise UserError(
            "variables.eos_token_ids: neither model nor tokenizer says what ends an answer; set it"
        )
    kwargs = variables.generation_kwargs
    return Sampling(
        max_new_tokens=variables.max_gen_len,
        temperature=kwargs.temperature,
        stop=tuple(stop),
        top_p=kwargs.top_p,
        top_k=kwargs.top_k,
    )
