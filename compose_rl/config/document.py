"""Documents: nested mappings of plain values, as YAML gives them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any, cast

import yaml

__all__ = ["merge", "recipe"]


def recipe(name: str) -> dict[str, Any]:
    """The defaults that come with the package: ``compose_rl/recipes/<name>.yaml``."""
    text = (files("compose_rl") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    return cast(dict[str, Any], yaml.safe_load(text))


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``overrides`` laid over ``base``, mapping by mapping.

    A mapping that names another thing (``name: adam`` over ``name: decoupled_lionw``) replaces the whole
    mapping, since the options of the one mean nothing to the other.
    """
    result = dict(base)
    for key, value in overrides.items():
        below = result.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            low, high = cast(Mapping[str, Any], below), cast(Mapping[str, Any], value)
            replaces = "name" in low and "name" in high and low["name"] != high["name"]
            result[key] = dict(high) if replaces else merge(low, high)
        else:
            result[key] = value
    return result
