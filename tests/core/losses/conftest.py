"""What the tests of the losses share."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="session")
def rewritten() -> Callable[[Any, str, str], Any]:
    """``rewritten(loss, old, new)``: the loss with its module's source changed from ``old`` to ``new``."""

    def rewrite(loss: Any, old: str, new: str) -> Any:
        module = sys.modules[loss.__module__]
        source = inspect.getsource(module)
        assert old in source, f"{old!r} is not in the source of {module.__name__}"
        namespace: dict[str, Any] = {"__name__": module.__name__}
        exec(compile(source.replace(old, new), str(module.__file__), "exec"), namespace)
        return namespace[loss.__name__]

    return rewrite
