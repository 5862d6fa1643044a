"""Launchers as processes of their own, as in a pipeline's step: started, watched, killed."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from space import Space

TOY_LAUNCHER = Path(__file__).parent / "toy_launcher.py"
FAST = {"lease_minutes": 0.1, "memory": "1Gi"}
"""Unless a test says otherwise. Without ``cpu``, which would be a limit: a small machine is slow enough."""


class Launcher:
    """A running launcher."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)

    @property
    def output(self) -> str:
        """All it said so far, on stdout and stderr."""
        return self._log.read_text(errors="replace")

    def wait(self, seconds: float = 90) -> int:
        """Its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"the launcher still runs after {seconds} s; it said:\n{self.output}"
            ) from None

    def says(self, text: str, seconds: float = 90) -> None:
        """Wait for a piece of output."""
        self.until(lambda: text in self.output, f"'{text}'", seconds)

    def until(self, holds: Callable[[], Any], what: str, seconds: float = 90) -> None:
        """Wait for something while the launcher runs."""
        end = time.monotonic() + seconds
        while not holds():
            ended = self.process.poll() is not None
            if holds():
                return
            assert not ended, f"the launcher ended before {what}; it said:\n{self.output}"
            assert time.monotonic() < end, f"no {what} in {seconds} s; the launcher said:\n{self.output}"
            time.sleep(0.1)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self, seconds: float = 60) -> int:
        """What KFP's Terminate sends first; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(seconds)


class Launchers:
    """Starts launchers in a space; those that still run at the end are killed."""

    def __init__(self, space: Space, resources: dict[str, Any], folder: Path) -> None:
        self.space = space
        self.resources = {"backend": "pytorchjob", **FAST, **resources}
        self._folder = folder
        self._started: list[Launcher] = []
        self._numbers = itertools.count()  # tests start launchers from several threads

    def toy(
        self, config: dict[str, Any] | None = None, *, env: dict[str, str] | None = None, **resources: Any
    ) -> Launcher:
        """Launch the toy stage.

        Args:
            config: of the stage (tests/toy).
            env: more environment variables of the launcher.
            resources: other fields of ``Resources``.
        """
        options = {
            "storage": self.space.storage,
            "config": config or {},
            "resources": {**self.resources, **resources},
        }
        command = [sys.executable, str(TOY_LAUNCHER), json.dumps(options)]
        return self.start(command, env or {})

    def start(self, command: list[str], env: dict[str, str]) -> Launcher:
        """Start any launcher, in the space's environment."""
        environment = {**os.environ, **self.space.environment, "PYTHONUNBUFFERED": "1", **env}
        launcher = Launcher(command, environment, self._folder / f"launcher{next(self._numbers)}.log")
        self._started.append(launcher)
        return launcher

    def until(self, holds: Callable[[], Any], what: str, seconds: float = 60) -> None:
        """Wait for something that comes when no launcher runs any more."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"no {what} in {seconds} s"
            time.sleep(0.2)

    def __enter__(self) -> Launchers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, launcher in enumerate(self._started):
            if launcher.process.poll() is None:
                launcher.kill()
            print(f"--- launcher {number}\n{launcher.output}")  # pytest shows it when the test fails
