"""Padded rows: the path of models that cannot run packed, and the reference of the packed path in the
tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from compose_rl.core.packing import Packed

__all__ = ["PaddedAnswers", "pad_answers", "padded_logprobs"]


@dataclass(frozen=True, eq=False)
class PaddedAnswers:
    """One right-padded row per answer: its prompt and itself, padded to the longest row, L tokens."""

    input_ids: Tensor
    """int64 [answers, L]."""
    attention_mask: Tensor
    """int64 [answers, L]: 1 for tokens, 0 for padding."""
    target_rows: Tensor
    """int64 [A]: the row of each target of the packed batch, in its order."""
    target_columns: Tensor
    """int64 [A]: the column whose logits predict it."""
    targets: Tensor
    """int64 [A]."""
    ends: Tensor
    """int64 [answers]: the column of the last token."""


def pad_answers(packed: Packed, pad_token: int) -> PaddedAnswers:
    """Write each answer with its prompt into a row of its own. Order and numbers of answers and targets are
    the packed ones.
    """
    positions, groups, branches = packed.position_ids, packed.group_ids, packed.branch_ids
    answers = packed.answer_lengths.numel()
    per_group = answers // (int(groups.max()) + 1)
    rows = torch.arange(answers, device=positions.device)
    # [answers, T]: a row takes its group's prompt and its own branch.
    takes = (groups == (rows // per_group)[:, None]) & (
        (branches == 0) | (branches == (rows % per_group + 1)[:, None])
    )
    row_of, stream = takes.nonzero(as_tuple=True)
    width = int(positions.max()) + 1
    input_ids = positions.new_full((answers, width), pad_token)
    attention_mask = torch.zeros_like(input_ids)
    input_ids[row_of, positions[stream]] = packed.input_ids[stream]
    attention_mask[row_of, positions[stream]] = 1
    return PaddedAnswers(
        input_ids=input_ids,
        attention_mask=attention_mask,
        target_rows=packed.answer_ids,
        target_columns=positions[packed.target_index],
        targets=packed.targets,
        ends=attention_mask.sum(1) - 1,
    )


def padded_logprobs(
    logits: Callable[[Tensor, Tensor], Tensor], padded: PaddedAnswers, *, temperature: float = 1.0
) -> Tensor:
    """Log-probabilities float32 [A] of the targets, from a model (input_ids, attention_mask) -> logits
    [rows, L, V].
    """
    scores = logits(padded.input_ids, padded.attention_mask)[padded.target_rows, padded.target_columns]
    normalised = torch.log_softmax(scores.float() / temperature, dim=-1)
    return normalised.gather(1, padded.targets[:, None]).squeeze(1)
