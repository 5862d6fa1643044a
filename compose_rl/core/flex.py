"""The packed layout as FlexAttention's mask function, for GPUs (Dong et al., arXiv 2412.05496).

The mask is given by two small id tensors; the block mask keeps only which 128 x 128 blocks hold a visible
pair.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from functools import cache
from typing import cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["attend_flex", "visible"]

_block_masks: MutableMapping[Tensor, BlockMask] = WeakTensorKeyDictionary()


def visible(layout: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The mask function (batch, head, query index, key index) -> bool of a layout int64 [B, 1, 2, T]."""
    groups, branches = layout[:, 0, 0].contiguous(), layout[:, 0, 1].contiguous()

    def mask(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same_group = (groups[batch, query] == groups[batch, key]) & (groups[batch, query] >= 0)
        shared = (branches[batch, key] == 0) | (branches[batch, key] == branches[batch, query])
        return (query >= key) & same_group & shared

    return mask


@cache
def _compiled() -> Callable[..., Tensor]:
    return cast(Callable[..., Tensor], torch.compile(flex_attention, dynamic=True))


def attend_flex(query: Tensor, key: Tensor, value: Tensor, layout: Tensor, scale: float) -> Tensor:
    """Attention of query [B, Hq, T, D] over key, value [B, Hkv, T, D] within a layout [B, 1, 2, T]: [B, T,
    Hq, D].

    Padding gets zeros.
    """
    batch, _, length, _ = query.shape
    mask = _block_masks.get(layout)
    if mask is None:
        mask = create_block_mask(visible(layout), batch, None, length, length, device=str(query.device))
        _block_masks[layout] = mask
    attend = _compiled() if query.is_cuda else cast(Callable[..., Tensor], flex_attention)
    grouped = query.size(1) != key.size(1)
    out = attend(query, key, value, block_mask=mask, scale=scale, enable_gqa=grouped)
    return out.transpose(1, 2).contiguous()
