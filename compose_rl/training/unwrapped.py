"""The Composer model, out of what wraps it for several processes."""

from __future__ import annotations

from typing import Any

from composer.core import State

from compose_rl.errors import UserError

__all__ = ["composer_model", "model_of_kind"]


def composer_model(state: State) -> Any:
    """The model that the document describes, out of DDP's wrapper."""
    return getattr(state.model, "module", state.model)


def model_of_kind(state: State, kind: type, *, callback: str, names: str) -> Any:
    """The same, which ``callback`` can only work with where it is a ``kind``.

    Args:
        names: what such models are called in a document.

    Raises:
        UserError: it is another.
    """
    model = composer_model(state)
    if not isinstance(model, kind):
        raise UserError(
            f"callback '{callback}': the model is a {type(model).__name__}; it works with {names}"
        )
    return model
