"""Cutting a batch into microbatches, and counting what is in one.

Rows are picked, nothing is padded. Every rank runs the same number of microbatches, or its collectives
would wait for ever: ranks that have fewer add copies of one row with ``weight`` 0, which count as no sample
and so have no part in the gradient. Of online RL, the weights of such a row's answers and tokens are 0 too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from composer.utils import dist, get_device

from compose_rl.core.packing import fill
from compose_rl.data.collate import ANSWER_TOKENS, Batch

__all__ = [
    "answers",
    "count_answers",
    "count_instruction",
    "count_ragged",
    "loss_tokens",
    "samples",
    "split_instruction",
    "split_ragged",
    "take_instruction",
    "take_ragged",
]

_RAGGED = {"tokens": "lengths", "kl_tokens": "kl_lengths"}
_WEIGHTS = ("weight", "answer_weights", "token_weights", "counted")


def samples(batch: Batch) -> int:
    """Samples in a batch (pairs, for preferences), without those that only fill up."""
    return int(batch["weight"].count_nonzero())


def loss_tokens(batch: Batch) -> int:
    """Tokens that an instruction batch has a loss for; 0 if it only fills up."""
    return int((batch["labels"] != -100).sum()) if samples(batch) else 0


def count_ragged(batch: Batch) -> dict[str, int]:
    """Tokens, and the number a loss over samples is a mean of."""
    return {"total": batch["tokens"].numel(), "loss_generating": samples(batch)}


def count_instruction(batch: Batch) -> dict[str, int]:
    """Tokens, and the number a loss over tokens is a mean of."""
    return {"total": batch["input_ids"].numel(), "loss_generating": loss_tokens(batch)}


def answers(batch: Batch) -> int:
    """Answers in a batch of online RL, without those that only fill up."""
    return samples(batch) * (batch["lengths"].shape[1] - 1)


def count_answers(batch: Batch) -> dict[str, int]:
    """Tokens, and the answers that a loss of online RL is a mean of: those of ``counted``, which a minibatch
    has that nothing is learnt from, else those that are learnt from."""
    counted = batch.get("counted", batch["answer_weights"])
    return {"total": batch["tokens"].numel(), "loss_generating": int(counted.count_nonzero())}


def take_ragged(batch: Batch, rows: Sequence[int]) -> Batch:
    """The given rows of a ragged batch, in the given order."""
    picked = torch.tensor(rows)
    sizes = {name: batch[lengths].sum(1) for name, lengths in _RAGGED.items() if name in batch}
    sizes |= {name: batch["lengths"][:, 1:].sum(1) for name in ANSWER_TOKENS if name in batch}
    taken = {name: value[picked] for name, value in batch.items() if name not in sizes}
    for name, counts in sizes.items():
        parts = batch[name].split(counts.tolist())
        taken[name] = torch.cat([parts[row] for row in rows])
    return taken


def take_instruction(batch: Batch, rows: Sequence[int]) -> Batch:
    """The given samples of a packed row, in the given order."""
    sizes = _instruction_sizes(batch)
    taken = {"weight": batch["weight"][torch.tensor(rows)]}
    for name, value in batch.items():
        if name != "weight":
            parts = value[0].split(sizes)
            taken[name] = torch.cat([parts[row] for row in rows])[None]
    return taken


def split_ragged(batch: Batch, microbatch_size: int | float, token_budget: int | None) -> list[Batch]:
    """Microbatches of a ragged batch, as many as on every other rank.

    Args:
        microbatch_size: rows of a microbatch, used without a ``token_budget``.
        token_budget: tokens of a microbatch; a row that is larger has one for itself.
    """
    costs = batch["lengths"].sum(1)
    if "kl_lengths" in batch:
        costs = torch.maximum(costs, batch["kl_lengths"].sum(1))
    groups = _groups(costs.tolist(), microbatch_size, token_budget)
    parts = [take_ragged(batch, rows) for rows in groups]
    return _same_number(parts, lambda: take_ragged(batch, [int(costs.argmin())]))


def split_instruction(batch: Batch, microbatch_size: int | float, token_budget: int | None) -> list[Batch]:
    """Microbatches of a packed row, as many as on every other rank; arguments as of :func:`split_ragged`."""
    sizes = _instruction_sizes(batch)
    parts = [take_instruction(batch, rows) for rows in _groups(sizes, microbatch_size, token_budget)]
    return _same_number(parts, lambda: _shortest_with_loss(batch, sizes))


def _instruction_sizes(batch: Batch) -> list[int]:
    starts = torch.nonzero(batch["position_ids"][0] == 0)[:, 0]
    ends = torch.tensor([batch["position_ids"].shape[1]])
    return torch.diff(starts, append=ends).tolist()


def _groups(costs: list[int], microbatch_size: int | float, token_budget: int | None) -> list[list[int]]:
    if token_budget is not None:
        return fill(costs, token_budget, balance=True)
    size = max(1, int(microbatch_size))
    return [list(range(start, min(start + size, len(costs)))) for start in range(0, len(costs), size)]


def _same_number(parts: list[Batch], filler: Callable[[], Batch]) -> list[Batch]:
    most = get_device(None).tensor_to_device(torch.tensor(len(parts)))
    dist.all_reduce(most, reduce_operation="MAX")
    missing = int(most) - len(parts)
    return parts + [_weightless(filler()) for _ in range(missing)]


def _weightless(batch: Batch) -> Batch:
    return batch | {name: torch.zeros_like(batch[name]) for name in _WEIGHTS if name in batch}


def _shortest_with_loss(batch: Batch, sizes: list[int]) -> Batch:
    """A sample with a single token that has loss: none would make a mean over tokens 0/0."""
    losses = [int((part != -100).sum()) for part in batch["labels"][0].split(sizes)]
    candidates = [row for row, count in enumerate(losses) if count] or list(range(len(sizes)))
    taken = take_instruction(batch, [min(candidates, key=lambda row: sizes[row])])
    labels = torch.full_like(taken["labels"], -100)
    last = int(torch.nonzero(taken["labels"][0] != -100)[-1]) if any(losses) else -1
    labels[0, last] = taken["input_ids"][0, last]
    return taken | {"labels": labels}
