"""The packed layout: samples one after the other in one stream, a prompt once for all of its answers.

Sharing a prompt between its answers is exact (Wang et al., arXiv 2410.20305): an answer's tokens see the
prompt and their own past, and their positions go on where the prompt ends.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

__all__ = ["Packed", "fill", "pack", "restarting_positions"]


@dataclass(frozen=True, eq=False)
class Packed:
    """A packed batch of `groups` rows with `answers` answers in all, T tokens and A predicted answer tokens.

    A token sees the earlier tokens of its group whose branch is 0 or its own.
    """

    input_ids: Tensor
    """int64 [T]."""
    position_ids: Tensor
    """int64 [T]: 0 at each group's start; every answer continues its prompt."""
    group_ids: Tensor
    """int64 [T]: the row of a token."""
    branch_ids: Tensor
    """int64 [T]: 0 for the prompt, 1.. for the answers."""
    target_index: Tensor
    """int64 [A]: stream index of the hidden state that predicts `targets`."""
    targets: Tensor
    """int64 [A]."""
    answer_ids: Tensor
    """int64 [A]: the answer a target belongs to; answers are numbered row by row."""
    answer_lengths: Tensor
    """int64 [answers]: the number of targets of an answer."""
    answer_ends: Tensor
    """int64 [answers]: stream index of an answer's last token (of its prompt's last one if it is empty)."""

    def to(self, device: torch.device | str) -> Packed:
        """The same batch on `device`."""
        return Packed(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def sum_per_answer(self, values: Tensor) -> Tensor:
        """Sum `values` [A] over the targets of each answer: [answers]."""
        zeros = values.new_zeros(self.answer_lengths.numel())
        return zeros.index_add(0, self.answer_ids, values)


def pack(tokens: Tensor, lengths: Tensor) -> Packed:
    """Lay out ragged rows as one packed stream.

    Args:
        tokens: int64 [T], the rows one after the other, each as prompt, answer 1, answer 2, ...
        lengths: int64 [B, C] token counts; column 0 is the prompt (may be 0), the others its answers (may be
            0 too). With C = 1 each row is a single answerless sample: it gets one empty answer, whose end is
            the row's last token.

    The first token of an answer without a prompt has nothing that predicts it, so it is no target.

    Raises:
        ValueError: `lengths` is not a [B, C] table of counts that sum to T, or an answer and its
            prompt are both empty.
    """
    _check(tokens, lengths)
    if lengths.size(1) == 1:
        lengths = torch.nn.functional.pad(lengths, (0, 1))
    rows, columns = lengths.shape
    counts = lengths.reshape(-1)
    ends = counts.cumsum(0)
    segments = torch.repeat_interleave(torch.arange(counts.numel(), device=tokens.device), counts)
    stream = torch.arange(tokens.numel(), device=tokens.device)
    offsets = stream - (ends - counts)[segments]
    group_ids = segments // columns
    branch_ids = segments % columns
    prompt_lengths, prompt_ends = lengths[:, 0], ends.view(rows, columns)[:, 0]

    starts_answer = (offsets == 0) & (branch_ids > 0)
    predictor = torch.where(starts_answer, prompt_ends[group_ids], stream) - 1
    has_predictor = (branch_ids > 0) & ~(starts_answer & (prompt_lengths[group_ids] == 0))
    target_stream = has_predictor.nonzero().squeeze(1)
    answer_ids = (group_ids * (columns - 1) + branch_ids - 1)[target_stream]
    answers = lengths[:, 1:]
    answer_ends = torch.where(answers > 0, ends.view(rows, columns)[:, 1:], prompt_ends[:, None]) - 1
    return Packed(
        input_ids=tokens,
        position_ids=torch.where(branch_ids > 0, offsets + prompt_lengths[group_ids], offsets),
        group_ids=group_ids,
        branch_ids=branch_ids,
        target_index=predictor[target_stream],
        targets=tokens[target_stream],
        answer_ids=answer_ids,
        answer_lengths=torch.bincount(answer_ids, minlength=rows * (columns - 1)),
        answer_ends=answer_ends.reshape(-1),
    )


def _check(tokens: Tensor, lengths: Tensor) -> None:
    if lengths.dim() != 2 or lengths.size(1) == 0 or bool((lengths < 0).any()):
        raise ValueError(f"lengths must be a [B, C] table of counts, got shape {tuple(lengths.shape)}")
    if int(lengths.sum()) != tokens.numel():
        raise ValueError(f"lengths sum to {int(lengths.sum())}, but there are {tokens.numel()} tokens")
    has_end = lengths[:, 0] > 0
    if lengths.size(1) > 1:
        has_end = has_end | (lengths[:, 1:] > 0).all(1)
    if not bool(has_end.all()):
        row = int((~has_end).nonzero()[0])
        counts = [int(count) for count in lengths[row]]
        raise ValueError(f"row {row} has an answer without tokens and no prompt: its lengths are {counts}")


def restarting_positions(lengths: Tensor) -> Tensor:
    """Position ids [T] of samples of `lengths` [n] one after the other: each counts from 0."""
    starts = lengths.cumsum(0) - lengths
    stream = torch.arange(int(lengths.sum()), device=lengths.device)
    return stream - torch.repeat_interleave(starts, lengths)


def fill(
    lengths: list[int], budget: int, max_rows: int | None = None, *, balance: bool = False
) -> list[list[int]]:
    """Divide rows among microbatches of at most `budget` tokens and `max_rows` rows.

    A row longer than the budget gets a microbatch of its own. In order, a microbatch is closed when the next
    row does not fit. With `balance`, the longest row left goes to the microbatch with the fewest tokens, for
    the smallest number of microbatches where that fits the budget: shorter steps and a lower peak, at the
    price of the order. Deterministic.

    Returns:
        Row indices of each microbatch, ascending, every row exactly once.
    """
    if budget < 1 or (max_rows is not None and max_rows < 1):
        raise ValueError(f"budget and max_rows must be at least 1, got {budget} and {max_rows}")
    in_order = _fill_in_order(lengths, budget, max_rows or len(lengths))
    if not balance:
        return in_order
    limit = max(budget, max(lengths, default=0))
    for count in range(max(1, -(-sum(lengths) // limit)), len(in_order) + 1):
        parts = _spread(lengths, count, max_rows or len(lengths))
        if parts and all(len(part) == 1 or sum(lengths[i] for i in part) <= budget for part in parts):
            return parts
    return in_order


def _fill_in_order(lengths: list[int], budget: int, max_rows: int) -> list[list[int]]:
    parts: list[list[int]] = []
    used = 0
    for row, length in enumerate(lengths):
        if not parts or used + length > budget or len(parts[-1]) == max_rows:
            parts.append([])
            used = 0
        parts[-1].append(row)
        used += length
    return parts


def _spread(lengths: list[int], count: int, max_rows: int) -> list[list[int]]:
    """Longest rows first, each to the part with the fewest tokens so far; empty if `max_rows` leaves no
    place.
    """
    if count * max_rows < len(lengths):
        return []
    parts: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        open_parts = [p for p in range(count) if len(parts[p]) < max_rows]
        part = min(open_parts, key=lambda p: (loads[p], p))
        parts[part].append(row)
        loads[part] += lengths[row]
    return sorted(sorted(part) for part in parts if part)
