"""Update batches of online RL, and the same answers laid out otherwise."""

from __future__ import annotations

from typing import Any

import torch
from tiny_training import VOCAB
from torch import Tensor

Batch = dict[str, Tensor]
OF_TOKENS = ("advantages", "token_weights", "old_logps", "ref_logps", "engine_logps", "old_values", "returns")
OF_ANSWERS = ("answer_weights", "answer_rewards")
OF_ROWS = ("index", "weight", "kl_coef", "vstar")


def update_batch(rows: int = 3, answers: int = 2, seed: int = 0) -> Batch:
    """Random prompts, answers, advantages, returns, old values; an answer's tokens share a weight of 1."""
    draw = torch.Generator().manual_seed(seed)
    prompts = torch.randint(2, 6, (rows, 1), generator=draw)
    lengths = torch.cat([prompts, torch.randint(1, 7, (rows, answers), generator=draw)], dim=1)
    sizes = lengths[:, 1:].flatten()
    total = int(sizes.sum())
    return {
        "tokens": torch.randint(2, VOCAB, (int(lengths.sum()),), generator=draw),
        "lengths": lengths,
        "index": torch.arange(rows),
        "weight": torch.ones(rows),
        "advantages": torch.randn(total, generator=draw),
        "token_weights": torch.repeat_interleave(1 / sizes, sizes),
        "returns": torch.randn(total, generator=draw),
        "old_values": 0.1 * torch.randn(total, generator=draw),
        "answer_weights": torch.ones(rows, answers),
        "answer_rewards": torch.randn(rows, answers, generator=draw),
        "kl_coef": torch.full((rows,), 0.3),
        "vstar": torch.randn(rows, generator=draw),
    }


def take(batch: Batch, rows: list[int]) -> Batch:
    """The given rows as a batch."""
    picked = torch.tensor(rows)
    answers = batch["lengths"][:, 1:].sum(1).tolist()
    sizes = {"tokens": batch["lengths"].sum(1).tolist()} | dict.fromkeys(OF_TOKENS, answers)
    return {
        name: torch.cat([value.split(sizes[name])[row] for row in rows]) if name in sizes else value[picked]
        for name, value in batch.items()
    }


def one_answer_a_row(batch: Batch) -> Batch:
    """The same answers, each with a prompt of its own."""
    lengths = batch["lengths"]
    k = lengths.size(1) - 1
    pieces = iter(batch["tokens"].split(lengths.flatten().tolist()))
    tokens: list[Tensor] = []
    for _ in range(len(lengths)):
        prompt = next(pieces)
        for _ in range(k):
            tokens += [prompt, next(pieces)]
    again: Any = {name: batch[name] for name in OF_TOKENS if name in batch}
    again |= {name: batch[name].reshape(-1, 1) for name in OF_ANSWERS}
    again |= {name: batch[name].repeat_interleave(k) for name in OF_ROWS}
    prompts = lengths[:, 0].repeat_interleave(k)
    return again | {
        "tokens": torch.cat(tokens),
        "lengths": torch.stack([prompts, lengths[:, 1:].flatten()], dim=1),
    }
