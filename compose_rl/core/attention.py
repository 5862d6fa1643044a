"""Attention over the packed layout, registered in transformers as `compose_rl_packed`.

The layout travels as the attention mask: an int64 tensor [B, 1, 2, T] with group ids and branch ids. Models
of the registry hand a 4D mask to the attention function as it is, also when a checkpointed layer runs again
in the backward, so no T x T mask is ever built. Padding has group -1 and gets zeros. Any other mask (a
generation step with its cache) goes to plain SDPA.
"""

# transformers is typed in part only.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from compose_rl.core.packing import Packed
from compose_rl.core.segments import Row, attend_rows, find_rows
from compose_rl.errors import UserError

__all__ = ["PACKED_ATTENTION", "layout_from_positions", "layout_mask", "packed_attention"]

PACKED_ATTENTION = "compose_rl_packed"

# One layout serves all layers of a forward.
_rows_of_mask: MutableMapping[Tensor, list[Row]] = WeakTensorKeyDictionary()


def layout_mask(packed: Packed) -> Tensor:
    """The attention mask argument for a packed batch that runs as one sequence: int64 [1, 1, 2, T]."""
    return torch.stack([packed.group_ids, packed.branch_ids])[None, None]


def layout_from_positions(position_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """The layout of samples that start wherever `position_ids` [B, T] is 0: int64 [B, 1, 2, T].

    Where `attention_mask` [B, T] is 0 there is padding, which nothing sees.
    """
    groups = (position_ids == 0).cumsum(1)
    if attention_mask is not None:
        groups = groups.masked_fill(attention_mask == 0, -1)
    return torch.stack([groups, torch.zeros_like(groups)], dim=1)[:, None]


def is_layout(attention_mask: Tensor | None, length: int) -> bool:
    """Whether a mask is a layout as made here: no mask of transformers is of integers with four
    dimensions.
    """
    return (
        attention_mask is not None
        and attention_mask.dtype == torch.int64
        and attention_mask.dim() == 4
        and attention_mask.shape[2:] == (2, length)
    )


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: query [B, Hq, T, D], key and value [B, Hkv, T, D] -> [B, T, Hq, D].

    Raises:
        UserError: dropout, a sliding window or a logit cap, none of which the packed layout supports.
    """
    if attention_mask is None or not is_layout(attention_mask, query.size(2)):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    refuse_unsupported(dropout, kwargs.get("sliding_window"), kwargs.get("softcap"))
    scale = query.size(-1) ** -0.5 if scaling is None else scaling
    if query.is_cuda:
        from compose_rl.core.flex import attend_flex  # FlexAttention's import is slow and of no use on CPU

        return attend_flex(query, key, value, attention_mask, scale), None
    rows = _rows_of_mask.get(attention_mask)
    if rows is None:
        rows = _rows_of_mask[attention_mask] = find_rows(attention_mask)
    return attend_rows(query, key, value, rows, scale), None


def refuse_unsupported(dropout: float, sliding_window: int | None, softcap: float | None) -> None:
    """Refuse what would silently change the result.

    Raises:
        UserError: see `packed_attention`.
    """
    if dropout:
        raise UserError(f"attention dropout is {dropout}: packed training needs attention_dropout: 0")
    if sliding_window is not None:
        raise UserError(
            f"sliding_window is {sliding_window}: packed attention has none; set sliding_window: null if no"
            " sample is longer than the window, or use the padded path"
        )
    if softcap is not None:
        raise UserError(
            f"attention softcap is {softcap}: not supported by packed attention; use the padded path"
        )


ALL_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION, packed_attention)
if importlib.util.find_spec("transformers.masking_utils"):
    # Newer versions make no mask for an implementation without a mask function: padding would be seen.
    masking: Any = importlib.import_module("transformers.masking_utils")
    masking.ALL_MASK_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION, masking.sdpa_mask)
