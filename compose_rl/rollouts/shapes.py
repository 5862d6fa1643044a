"""Whether weights are those of a model. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping

from compose_rl.errors import UserError

__all__ = ["check_shapes"]

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
