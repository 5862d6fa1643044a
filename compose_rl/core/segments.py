"""Exact attention over packed rows on CPU, as flash-attention calls on contiguous slices.

A row's prompt and first answer are one causal block; every further answer is a causal block of its own, and
all of them together a full block over the prompt, merged with the former by log-sum-exp. Blocks merged so
have an exact backward: each block's own backward, given the *merged* output and log-sum-exp (Liu et al., Ring
Attention, arXiv 2310.01889, use the same identity). So a prompt shared by n answers is attended once, nothing
is masked and no mask is built.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Block", "Row", "attend_rows", "find_rows"]

_flash: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Block:
    """Queries and keys as slices of the flattened stream [B * T]; not ``causal``: it sees all keys."""

    queries: slice
    keys: slice
    causal: bool


@dataclass(frozen=True)
class Row:
    own: tuple[Block, ...]
    """Blocks whose queries are all of the row's tokens, each once."""
    prompt: Block | None = None
    """What further answers see beside their own tokens."""


def find_rows(layout: Tensor) -> list[Row]:
    """Read the rows from a layout int64 [B, 1, 2, T] of group and branch ids, without a Python step per
    token.
    """
    batch, _, _, length = layout.shape
    groups, branches = layout[:, 0, 0], layout[:, 0, 1]
    sequence = torch.arange(batch, device=layout.device)[:, None].expand(batch, length)
    keys = torch.stack([sequence, groups, branches], dim=-1).reshape(-1, 3)
    segments, counts = torch.unique_consecutive(keys, dim=0, return_counts=True)
    rows: list[Row] = []
    spans: list[tuple[int, slice]] = []
    start, current = 0, None
    for (sequence_id, group, branch), count in zip(segments.tolist(), counts.tolist(), strict=True):
        if current != (sequence_id, group) and spans:
            rows.append(_row(spans))
            spans = []
        current = (sequence_id, group)
        if group >= 0:
            spans.append((branch, slice(start, start + count)))
        start += count
    return [*rows, _row(spans)] if spans else rows


def _row(spans: list[tuple[int, slice]]) -> Row:
    """The row of adjacent spans, each a branch and its slice; branch 0 is the prompt."""
    first, last = spans[0][1].start, spans[-1][1].stop
    has_prompt = spans[0][0] == 0
    further = [span for _, span in spans[has_prompt + 1 :]]
    head = slice(first, further[0].start if further else last)
    own = tuple(Block(span, span, causal=True) for span in (head, *further))
    if not (further and has_prompt):
        return Row(own)
    return Row(own, prompt=Block(slice(further[0].start, last), spans[0][1], causal=False))


def attend_rows(query: Tensor, key: Tensor, value: Tensor, rows: list[Row], scale: float) -> Tensor:
    """Attention of query [B, Hq, T, D] over key, value [B, Hkv, T, D] within `rows`: [B, T, Hq, D].

    Tokens that no row covers (padding) get zeros.
    """
    batch, heads, length, width = query.shape
    repeats = heads // key.size(1)
    streams = [
        x.transpose(1, 2).reshape(batch * length, 1, x.size(1), width).movedim(0, 2)
        for x in (query, key, value)
    ]
    # Grouped queries: the flash kernel wants as many key heads as query heads.
    key, value = (x.repeat_interleave(repeats, dim=1) if repeats > 1 else x for x in streams[1:])
    out = cast(Tensor, _RowAttention.apply(streams[0], key, value, rows, scale))
    return out.view(batch, length, heads, width)


class _RowAttention(torch.autograd.Function):
    """query, key, value [1, H, S, D] -> [S, H, D]."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, rows: list[Row], scale: float) -> Tensor:
        _, heads, length, width = query.shape
        out = query.new_zeros(length, heads, width)
        accumulated = torch.float64 if query.dtype == torch.float64 else torch.float32
        lse = torch.zeros(1, heads, length, dtype=accumulated, device=query.device)
        out_view = out.movedim(0, 1)[None]

        def attend(block: Block) -> tuple[Tensor, Tensor]:
            keys = (x[:, :, block.keys] for x in (key, value))
            return _flash(query[:, :, block.queries], *keys, 0.0, block.causal, scale=scale)

        for row in rows:
            for block in row.own:
                out_view[:, :, block.queries], lse[:, :, block.queries] = attend(block)
            if row.prompt is not None:
                further = row.prompt.queries
                own, own_lse = out_view[:, :, further], lse[:, :, further]
                over, over_lse = attend(row.prompt)
                merged = torch.logaddexp(own_lse, over_lse)
                own = own * _weight(own_lse, merged, own) + over * _weight(over_lse, merged, own)
                out_view[:, :, further], lse[:, :, further] = own, merged
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.rows, ctx.scale = rows, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        out, grad = (x.movedim(0, 1)[None] for x in (out, grad_outputs[0].contiguous()))
        grads = [torch.zeros_like(x) for x in (query, key, value)]

        for block in (block for row in ctx.rows for block in (*row.own, row.prompt) if block is not None):
            parts = _flash_backward(
                *(x[:, :, block.queries] for x in (grad, query)),
                *(x[:, :, block.keys] for x in (key, value)),
                *(x[:, :, block.queries] for x in (out, lse)),
                0.0,
                block.causal,
                scale=ctx.scale,
            )
            spans = (block.queries, block.keys, block.keys)
            for total, part, span in zip(grads, parts, spans, strict=True):
                total[:, :, span] += part
        return *grads, None, None


def _weight(block: Tensor, merged: Tensor, like: Tensor) -> Tensor:
    """The share of a block in the merged softmax: [1, H, S, 1]."""
    return (block - merged).exp().to(like.dtype)[..., None]
