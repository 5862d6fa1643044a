"""What has to fit before the first answer is generated: settings, processes, the policy, its prompts."""

from __future__ import annotations

from typing import Any

from composer.utils import dist

from compose_rl.config.online_rl import OnlineVariables
from compose_rl.errors import UserError
from compose_rl.rollouts.hf import model_limits
from compose_rl.rollouts.types import Sampling

__all__ = ["check_limits", "check_settings"]


def check_settings(variables: OnlineVariables, policy: Any) -> None:
    """One temperature everywhere, and a prompt for each process.

    Raises:
        UserError: it is not so.
    """
    sampled = variables.generation_kwargs.temperature
    if policy.settings.temperature not in (None, sampled):
        raise UserError(
            f"model.temperature={policy.settings.temperature} but answers are sampled at"
            f" variables.generation_kwargs.temperature={sampled}; leave model.temperature out"
        )
    prompts, world = variables.num_unique_prompts_per_iter, dist.get_world_size()
    if prompts < world:
        raise UserError(
            f"variables.num_unique_prompts_per_iter={prompts} cannot be shared by {world} processes;"
            " raise it to their number, or use fewer processes"
        )


def check_limits(longest: int, sampling: Sampling, model: Any) -> None:
    """An answer to every prompt fits the model's context, and can end.

    Args:
        longest: tokens of the longest prompt.
        model: the Hugging Face model.

    Raises:
        UserError: with the numbers.
    """
    vocab_size, most = model_limits(model)
    length = longest + sampling.max_new_tokens
    if most is not None and length > most:
        raise UserError(
            f"the longest prompt has {longest} tokens and an answer up to variables.max_gen_len="
            f"{sampling.max_new_tokens}: {length}, more than the model's {most}; lower max_gen_len, or leave"
            f" long prompts out with max_seq_len: {most} and train_loader.drop_long: true"
        )
    foreign = [token for token in sampling.stop if not 0 <= token < vocab_size]
    if foreign:
        raise UserError(
            f"variables.eos_token_ids: {foreign[0]} is not in the model's vocabulary of {vocab_size};"
            " name tokens that end an answer"
        )
