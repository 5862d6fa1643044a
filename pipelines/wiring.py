"""What the steps of a pipeline share."""

from __future__ import annotations

from typing import Any

from kfp.dsl.base_component import BaseComponent

__all__ = ["Wiring"]


class Wiring:
    """Adds steps to a pipeline: called inside its function."""

    def __init__(self, **shared: Any) -> None:
        self.shared = shared
        """Arguments of every component that has such an input."""

    def __call__(self, name: str, component: BaseComponent, **arguments: Any) -> Any:
        """Add a step called ``name``, the name of its section in ``config``; returns its manifest.

        Every input is passed: KFP's driver resolves arguments before it fills in defaults.
        """
        inputs = component.component_spec.inputs
        shared = {key: value for key, value in self.shared.items() if key in inputs}
        task = component(step=name, **shared, **arguments)
        task.set_display_name(name)
        # Our own cache looks at content; KFP's ignores the environment and what a mutable tag holds.
        task.set_caching_options(False)
        return task.outputs["manifest"]
