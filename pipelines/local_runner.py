"""Run a pipeline on this machine: ``kfp.local``, each step a process in the environment of its image.

``kfp.local`` runs container components with a container engine only. This replaces the class that it uses for
processes, and the order of steps that do not depend on each other; tests run pipelines through it, so that a
kfp that works otherwise is noticed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from kfp import local
from kfp.dsl.graph_component import GraphComponent
from kfp.local import graph_utils, subprocess_task_handler
from kfp.local.status import Status
from kfp.local.task_handler_interface import ITaskHandler

from components.container import environment_of
from compose_rl.commands.component import ABSENT
from compose_rl.commands.executor import ExecutorInput
from compose_rl.environments import interpreter
from compose_rl.lifeline import die_with_parent_hook
from compose_rl.stages.spec import NAMES
from compose_rl.store.manifest import Manifest
from pipelines.checks import COMMAND

__all__ = ["Run", "StepFailed", "StepRun", "ordered", "run"]


class StepFailed(Exception):  # noqa: N818 (what happened)
    """A step ended with an error; the message is its last line."""

    def __init__(self, step: str, exit_code: int, message: str) -> None:
        super().__init__(f"{step}: {message}")
        self.exit_code = exit_code


@dataclass(frozen=True)
class StepRun:
    """A finished step."""

    name: str
    seconds: float
    state: str
    """``made``, ``reused``, ``checked`` or ``absent``; see :mod:`compose_rl.commands.component`."""
    manifest: Manifest | None


@dataclass
class Run:
    """A run of a pipeline, as far as it is."""

    out: TextIO
    steps: list[StepRun] = field(default_factory=list)
    failure: StepFailed | None = None


def run(pipeline: GraphComponent, arguments: Mapping[str, Any]) -> Run:
    """Run the pipeline to its end, streaming what its steps print.

    Raises:
        StepFailed: a step failed; those after it were not started.
    """
    record = Run(out=sys.stdout)
    handler = partial(EnvironmentTaskHandler, record)
    with (
        tempfile.TemporaryDirectory(prefix="compose-rl-run-") as folder,
        _replaced(subprocess_task_handler, "SubprocessTaskHandler", handler),
        _replaced(graph_utils, "topological_sort_tasks", ordered),
        _quiet(folder),
    ):
        local.init(
            local.SubprocessRunner(use_venv=False),
            pipeline_root=folder,
            workspace_root=f"{folder}/workspace",
        )
        try:
            pipeline(**arguments)
        except RuntimeError:
            if record.failure is None:
                raise
    if record.failure is not None:
        raise record.failure
    return record


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def ordered(tasks: Mapping[str, Any]) -> list[str]:
    """The tasks as a stack, as ``kfp.local`` wants them: data first, so that bad data costs no training.

    Args:
        tasks: ``PipelineTaskSpec`` by name.
    """
    waiting = {name: set(task.dependent_tasks) for name, task in tasks.items()}
    order: list[str] = []
    while waiting:
        ready = [name for name, upstream in waiting.items() if upstream <= set(order)]
        first = min(ready, key=lambda name: (_rank(tasks[name].component_ref.name), name))
        del waiting[first]
        order.append(first)
    return order[::-1]


def _rank(component: str) -> int:
    """Place of the component's stage in a pipeline; ``comp-tokenize-2`` is the second use of ``tokenize``."""
    stage = re.sub(r"-\d+$", "", component.removeprefix("comp-")).replace("-", "_")
    # All steps are one part of the pipeline beside its report, and no stage.
    return NAMES.index(stage) if stage in NAMES else len(NAMES)


@contextlib.contextmanager
def _quiet(folder: str) -> Iterator[None]:
    """Keep what ``kfp.local`` says about each step to itself: the steps have their own words."""
    with Path(folder, "kfp.log").open("w") as log, contextlib.redirect_stdout(log), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class EnvironmentTaskHandler(ITaskHandler):
    """Runs a container component's command in the local environment of its image."""

    def __init__(
        self,
        record: Run,
        image: str,
        full_command: list[str],
        pipeline_root: str,
        runner: local.SubprocessRunner,
        env_vars: dict[str, str] | None = None,
    ) -> None:
        self.record = record
        self.environment = environment_of(image)
        self.command = full_command
        self.variables = env_vars or {}
        given = full_command[full_command.index("--executor-input") + 1]
        self.given = ExecutorInput.parse(given)
        self.name: str = self.given.parameters["step"]

    def run(self) -> Status:
        """Run the command; Status.FAILURE where it fails, with the reason in the record.

        After a failure no other stage starts; the report of the run does.
        """
        if self.command[:2] != COMMAND:
            return self._run_quietly()
        if self.record.failure is not None:
            return Status.FAILURE
        started = time.monotonic()
        code, last = self._stream(self.record.out)
        if code:
            self.record.failure = StepFailed(self.name, code if code > 0 else 1, last)
            return Status.FAILURE
        seconds = time.monotonic() - started
        self.record.steps.append(StepRun(self.name, seconds, self._state(), self._manifest()))
        return Status.SUCCESS

    def _run_quietly(self) -> Status:
        """The report of the run, which says what :mod:`pipelines.summary` shows here; its failure is told."""
        code, last = self._stream(io.StringIO())
        if code and self.record.failure is None:
            self.record.failure = StepFailed(self.name, code if code > 0 else 1, last)
        return Status.FAILURE if code else Status.SUCCESS

    def _stream(self, out: TextIO) -> tuple[int, str]:
        """Run, print each line behind the step's name; the exit code and the line that says why."""
        folder = Path(interpreter(self.environment)).parent
        # What the image sets: see images/Dockerfile.
        variables = {
            **os.environ,
            **self.variables,
            "COMPOSE_RL_ENV": self.environment,
            "PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONUNBUFFERED": "1",
        }
        process = subprocess.Popen(
            [str(folder / self.command[0]), *self.command[1:]],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            preexec_fn=die_with_parent_hook,
        )
        last = ""
        assert process.stdout is not None
        for line in process.stdout:
            out.write(f"{self.name} | {line}")
            out.flush()
            last = line.strip() or last
        code = process.wait()
        return code, last.removeprefix("error: ")

    def _state(self) -> str:
        output = json.loads(self.given.output_file.read_text(encoding="utf-8"))
        return output["artifacts"]["manifest"]["artifacts"][0]["metadata"]["state"]

    def _manifest(self) -> Manifest | None:
        path = self.given.outputs["manifest"].path
        text = path.read_text(encoding="utf-8")
        return None if text == ABSENT else Manifest.from_json(text, str(path))
