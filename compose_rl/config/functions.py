"""Users' functions by their dotted path, found without running their module."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

__all__ = ["module_functions"]


def module_functions(module: str) -> tuple[Path, frozenset[str]] | None:
    """The source file of ``module`` and the names of its functions; None where there is no such module."""
    try:
        found = importlib.util.find_spec(module) if module else None
    except (ModuleNotFoundError, ValueError):
        found = None
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        return None
    source = Path(found.origin)
    body = ast.parse(source.read_bytes()).body
    return source, frozenset(node.name for node in body if isinstance(node, ast.FunctionDef))
