"""Servers on this machine: started, watched, started again, and ended with the process that has them."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from compose_rl.config.rollouts import SERVER_BACKENDS, RolloutEngine, server_words
from compose_rl.environments import interpreter
from compose_rl.errors import EXIT_USER, TransientError, UserError
from compose_rl.lifeline import PARENT_VARIABLE
from compose_rl.rollouts.messages import TOKEN_VARIABLE

__all__ = ["LocalServers"]

_NOT_OURS = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "NODE_RANK",
)
"""Variables of the trainer's process group, which an engine would take for its own."""
_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""
_PAUSE = 0.1


@dataclass
class _Started:
    process: subprocess.Popen[bytes]
    ready: Path
    log: Path
    deadline: float


class LocalServers:
    """``engine.servers`` servers of ``engine.kind`` on this machine, started at once, not waited for.

    Args:
        model: folder of the Hugging Face model.
        max_length: tokens of a prompt and its answer together.
        logs: folder for what servers print.
        gpus: devices for them, ``tensor_parallel_size`` each; None: all see what this process sees.
        say: is told of restarts.

    Raises:
        UserError: the environment is not installed, or there are too few GPUs.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        model: Path,
        *,
        logs: Path,
        max_length: int | None = None,
        gpus: Sequence[str] | None = None,
        say: Callable[[str], None] = lambda message: None,
    ) -> None:
        needed = engine.servers * engine.tensor_parallel_size
        if gpus is not None and len(gpus) < needed:
            raise UserError(
                f"engine.servers={engine.servers}, tensor_parallel_size={engine.tensor_parallel_size}: need"
                f" {needed} GPUs, and {len(gpus)} are left for them; lower one of the two"
            )
        self.count = engine.servers
        self.start_timeout = engine.start_timeout
        self._engine = engine
        self._gpus = gpus
        self._say = say
        self._logs = logs
        logs.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="compose-rl-servers-")
        _, environment = SERVER_BACKENDS[engine.kind]
        self._command = [interpreter(environment), *server_words(engine, model, max_length)]
        # Others on this machine must not be able to ask, or to change the weights.
        os.environ.setdefault(TOKEN_VARIABLE, secrets.token_hex(16))
        # The kernel ends a child with the *thread* that started it, so that is one that stays.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="rollout-servers")
        self._locks = [threading.Lock() for _ in range(self.count)]
        self._restarts = [0] * self.count
        self._closed = False
        self._started = [self._start(index) for index in range(self.count)]

    def url(self, index: int) -> str:
        """See :class:`compose_rl.rollouts.places.Servers`."""
        with self._locks[index]:
            while True:
                started = self._started[index]
                code = started.process.poll()
                if code is None and started.ready.exists():
                    return json.loads(started.ready.read_text())["url"]
                if self._closed:
                    raise TransientError(f"rollout server {index}: is being ended")
                if code is None and time.monotonic() < started.deadline:
                    time.sleep(_PAUSE)
                    continue
                self._again(index, code)

    def lost(self, index: int, url: str) -> None:
        """End the server at ``url``, which does not answer well; the next :meth:`url` starts another."""
        with self._locks[index]:
            started = self._started[index]
            with contextlib.suppress(OSError, ValueError):
                if json.loads(started.ready.read_text())["url"] == url:
                    _end(started.process, grace=0)

    def forgive(self) -> None:
        self._restarts = [0] * self.count

    def close(self) -> None:
        """End all servers and what they started."""
        if self._closed:
            return
        self._closed = True
        for started in self._started:
            _signal(started.process, signal.SIGTERM)
        for started in self._started:
            _end(started.process, grace=_GRACE)
        self._starter.shutdown()
        self._folder.cleanup()

    def _again(self, index: int, code: int | None) -> None:
        started = self._started[index]
        _end(started.process, grace=0)
        what = f"did not start in {self.start_timeout:.0f} s" if code is None else f"ended with code {code}"
        last = _last_line(started.log)
        if code == EXIT_USER:
            raise UserError(last.removeprefix("rollout server: "))
        if self._restarts[index] >= self._engine.max_restarts:
            raise TransientError(
                f"rollout server {index}: {what} after {self._restarts[index]} restarts"
                f" (engine.max_restarts); its log: {started.log}; it ends: {last}"
            )
        self._restarts[index] += 1
        self._say(f"rollout server {index} {what}; restart {self._restarts[index]}; its log: {started.log}")
        self._started[index] = self._start(index)

    def _start(self, index: int) -> _Started:
        ready = Path(self._folder.name) / f"{index}-{secrets.token_hex(4)}.json"
        log = self._logs / f"rollout-server-{index}.log"
        environ = {name: value for name, value in os.environ.items() if name not in _NOT_OURS}
        environ |= {
            PARENT_VARIABLE: str(os.getpid()),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(Path(__file__).parents[2]), environ.get("PYTHONPATH")])
            ),
        }
        if self._gpus is not None:
            each = self._engine.tensor_parallel_size
            environ["CUDA_VISIBLE_DEVICES"] = ",".join(self._gpus[index * each : (index + 1) * each])
        with log.open("ab") as stream:
            process = self._starter.submit(
                subprocess.Popen,
                [*self._command, "--ready-file", str(ready)],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            ).result()
        return _Started(process, ready, log, time.monotonic() + self.start_timeout)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    """Wait ``grace`` seconds for the server, then kill its process group, which may outlive it."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    _signal(process, signal.SIGKILL)
    process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else "nothing was printed"
