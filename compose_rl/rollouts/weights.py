"""Handing weights over: names and shapes are those of the Hugging Face model, whatever the dtype."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from compose_rl.errors import UserError

__all__ = ["check_shapes", "load_tensors"]

Shapes = Mapping[str, tuple[int, ...]]


def check_shapes(given: Shapes, expected: Shapes, tied: frozenset[str] = frozenset()) -> None:
    """Check that weights are those of a model.

    Args:
        tied: names that are the same weight as another one, which may be given or not.

    Raises:
        UserError: a name is missing or foreign, or a shape differs.
    """
    missing = sorted(set(expected) - set(given) - tied)
    foreign = sorted(set(given) - set(expected) - tied)
    if missing or foreign:
        raise UserError(
            f"weights: {len(missing)} of the model's {len(expected)} are missing"
            f"{' (' + missing[0] + ')' if missing else ''} and {len(foreign)} are foreign"
            f"{' (' + foreign[0] + ')' if foreign else ''}; push the weights of the model that was started"
        )
    for name, shape in expected.items():
        if name in given and tuple(given[name]) != tuple(shape):
            raise UserError(
                f"weights: {name} has shape {list(given[name])}, the model's has {list(shape)};"
                " push the weights of the model that was started"
            )


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
