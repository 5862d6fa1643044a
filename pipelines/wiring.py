"""What the steps of a pipeline share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kfp import dsl

__all__ = ["Wiring"]


class Wiring:
    """Adds steps to a pipeline: called inside its function."""

    def __init__(self, **shared: Any) -> None:
        self.shared = shared
        """Arguments that every step takes."""

    def __call__(self, name: str, component: Callable[..., dsl.PipelineTask], **arguments: Any) -> Any:
        """Add a step called ``name``, the name of its section in ``config``; returns its manifest.

        Every input is passed: KFP's driver resolves arguments before it fills in defaults.
        """
        task = component(step=name, **self.shared, **arguments)
        task.set_display_name(name)
        # Our own cache looks at content; KFP's ignores the environment and what a mutable tag holds.
        task.set_caching_options(False)
        return task.outputs["manifest"]
