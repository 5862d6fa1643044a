"""How an iteration's answers are shared out: over minibatches, ranks and rows."""

from __future__ import annotations

import math
from typing import Any

from compose_rl.config.online_rl import OnlineVariables
from compose_rl.errors import UserError

__all__ = ["answers_per_row", "check_minibatches", "rank_share", "with_minibatches"]

_LOADERS = ("prompt", "messages")


def answers_per_row(generations: int, share: int) -> int:
    """Answers that a prompt stands in front of in a batch, where a rank has ``share`` of a minibatch."""
    return math.gcd(generations, share)


def with_minibatches(document: dict[str, Any]) -> dict[str, Any]:
    """LLM Foundry's document, with the key of its prompts' dataloader that says how long an epoch is.

    LLM Foundry applies it to every document: of ``config_transforms``. Other documents stay as they are.
    """
    loader: dict[str, Any] = document.get("train_loader") or {}
    if loader.get("name") not in _LOADERS or "minibatches" in loader:
        return document
    default = OnlineVariables.model_fields["num_batches_per_update"].default
    variables: dict[str, Any] = document.get("variables") or {}
    updates = variables.get("num_batches_per_update", default)
    return document | {"train_loader": loader | {"minibatches": updates}}


def rank_share(size: int, world: int) -> int:
    """A rank's answers of a minibatch of ``size``.

    Raises:
        UserError: ``size`` is no multiple of ``world``.
    """
    if size % world:
        raise UserError(
            f"global_train_batch_size={size} cannot be shared evenly by {world} processes;"
            f" use a multiple of {world}"
        )
    return size // world


def check_minibatches(variables: OnlineVariables, size: int, world: int = 1) -> None:
    """Check that an iteration's answers make up whole minibatches, and these whole shares of ranks.

    Args:
        size: ``global_train_batch_size``, in answers.
        world: processes that train.

    Raises:
        UserError: the numbers do not fit.
    """
    rank_share(size, world)
    prompts, generations = variables.num_unique_prompts_per_iter, variables.generations_per_prompt
    updates = variables.num_batches_per_update
    if prompts * generations == size * updates:
        return
    fitting, rest = divmod(size * updates, generations)
    remedy = (
        f"make their product a multiple of {generations}"
        if rest
        else f"set num_unique_prompts_per_iter to {fitting}"
    )
    raise UserError(
        f"variables: {prompts} num_unique_prompts_per_iter of {generations} generations_per_prompt are"
        f" {prompts * generations} answers, but global_train_batch_size {size} times num_batches_per_update"
        f" {updates} is {size * updates}; {remedy}"
    )
