"""What the steps of a pipeline share."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from kfp import dsl, kubernetes
from kfp.dsl.base_component import BaseComponent

from components.report_run.component import report_run

__all__ = ["STORAGE_KEYS", "STORAGE_SECRET", "Wiring"]

STORAGE_SECRET = "compose-rl-storage"
"""The Secret with access to the storage. It may be missing where a service account has access."""
STORAGE_KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "S3_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "HF_TOKEN",
    "HF_ENDPOINT",
)
"""The Secret's keys that become environment variables of every step, those that it has."""
TIMEOUT_HOURS = {"resolve": 12, "tokenize": 48, "export": 12, "report_run": 1}
"""Limits of steps that work in their own pod: far above what honest work takes, so that what hangs (a mount,
a connection) does not hang for ever. A step that launches a job has none: it may wait in a queue for
days, and the limits of the job (``queue_minutes``, ``start_minutes``, ``deadline_minutes``) are its own."""


class Wiring:
    """Adds steps to a pipeline, inside a ``with`` in its function; when they have ended the run is reported.

    No step has ``set_retry``: KFP counts bad input like any failure, and would repeat it. What may pass is
    tried again in the step itself, and a pod that is lost is started again by KFP's own defaults.
    """

    def __init__(self, **shared: Any) -> None:
        self.shared = {**shared, "run": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
        """Arguments of every component that has such an input."""

    def __enter__(self) -> Wiring:
        self._steps = dsl.ExitHandler(self._task("report_run", report_run), name="steps")
        self._steps.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._steps.__exit__(kind, error, trace)

    def __call__(self, name: str, component: BaseComponent, **arguments: Any) -> Any:
        """Add a step called ``name``, the name of its section in ``config``; returns its manifest."""
        return self._task(name, component, **arguments).outputs["manifest"]

    def _task(self, name: str, component: BaseComponent, **arguments: Any) -> dsl.PipelineTask:
        """Every input is passed: KFP's driver resolves arguments before it fills in defaults."""
        inputs = component.component_spec.inputs
        shared = {key: value for key, value in self.shared.items() if key in inputs}
        task = component(step=name, **shared, **arguments)
        task.set_display_name(name)
        # Our own cache looks at content; KFP's ignores the environment and what a mutable tag holds.
        task.set_caching_options(False)
        kubernetes.use_secret_as_env(task, STORAGE_SECRET, {key: key for key in STORAGE_KEYS}, optional=True)
        hours = TIMEOUT_HOURS.get(component.name.replace("-", "_"))
        if hours is not None:
            kubernetes.set_timeout(task, hours * 3600)
        return task
