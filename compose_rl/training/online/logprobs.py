"""Packed passes without gradient: what a model says of answers that are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from composer.core import State, get_precision_context
from torch import Tensor

from compose_rl.core.packing import pack
from compose_rl.data.microbatches import split_ragged
from compose_rl.rollouts.hf import evaluating

__all__ = ["Group", "measure"]


@dataclass(frozen=True)
class Group:
    """A prompt with its answers; all groups of a pass have as many."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]


def measure(
    state: State,
    model: Any,
    groups: Sequence[Group],
    want: tuple[str, ...],
    *,
    temperature: float,
    token_budget: int | None,
    done: Callable[[int], None],
) -> dict[str, list[Tensor]]:
    """Each wanted figure of every token, float32 on the CPU, by answer in the order of ``groups``.

    All ranks run as many microbatches, as sharded models need it.

    Args:
        model: a Hugging Face model with ``forward(packed=..., temperature=..., want=...)``.
        want: of ``logps``, ``entropies``, ``values``.
        done: told of answers as they are done.
    """
    size = state.device_train_microbatch_size
    assert size is not None
    found: dict[int, dict[str, tuple[Tensor, ...]]] = {}
    precision = get_precision_context(state.precision, state.precision_config)
    with evaluating(model), precision:
        for part in split_ragged(_batch(groups), size, token_budget):
            packed = pack(part["tokens"], part["lengths"])
            lengths = packed.answer_lengths.tolist()
            figures = model(packed=packed.to(model.device), temperature=temperature, want=want)
            if not part["weight"].any():
                continue
            split = {name: figures[name].float().cpu().split(lengths) for name in want}
            each = len(lengths) // len(part["index"])
            for row, index in enumerate(part["index"].tolist()):
                rows = slice(row * each, (row + 1) * each)
                found[index] = {name: values[rows] for name, values in split.items()}
            done(len(lengths))
    return {name: [value for index in range(len(groups)) for value in found[index][name]] for name in want}


def _batch(groups: Sequence[Group]) -> dict[str, Tensor]:
    pieces = [(group.prompt, *group.answers) for group in groups]
    return {
        "tokens": torch.tensor([token for row in pieces for piece in row for token in piece]),
        "lengths": torch.tensor([[len(piece) for piece in row] for row in pieces]),
        "index": torch.arange(len(groups)),
        "weight": torch.ones(len(groups)),
    }
