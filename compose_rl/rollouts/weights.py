"""New weights for a model of this process, under the names of the Hugging Face model, of any dtype."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from compose_rl.rollouts.shapes import check_shapes

__all__ = ["load_tensors"]


def load_tensors(model: nn.Module, weights: Iterable[tuple[str, Tensor]]) -> int:
    """Copy weights into a model's own, all or none; the bytes that were copied."""
    own = model.state_dict()
    new = dict(weights)
    tied = frozenset(getattr(model, "_tied_weights_keys", None) or ()) if _is_tied(model) else frozenset()
    check_shapes(
        {name: tuple(tensor.shape) for name, tensor in new.items()},
        {name: tuple(tensor.shape) for name, tensor in own.items()},
        tied,
    )
    with torch.no_grad():
        for name, tensor in new.items():
            own[name].copy_(tensor)
    return sum(tensor.numel() * tensor.element_size() for tensor in new.values())


def _is_tied(model: nn.Module) -> bool:
    return bool(getattr(model.config, "tie_word_embeddings", False))
