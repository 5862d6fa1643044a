"""What the container of a trainer pod runs: the stage's processes of this node.

``python -m compose_rl.launch.trainer --module M --job URI [--nodes N] [--procs P] [--secrets DIR]``, in the
environment of a PyTorchJob (``RANK`` is the node's, ``MASTER_ADDR``, ``PET_*``) or of a TrainJob (``PET_*``
alone). It exits with the stage's own code (:mod:`compose_rl.errors`) and leaves one line, the reason, as
termination message.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from compose_rl.errors import EXIT_BUG, EXIT_TRANSIENT, TransientError, UserError
from compose_rl.launch.node import Node, command, environment, this_node, wait_for_master
from compose_rl.lifeline import die_with_parent_hook
from compose_rl.stages.attempt import FAILURE_NAME, Failure
from compose_rl.stages.watch import SAVE_AND_LEAVE
from compose_rl.store import split

__all__ = ["main"]

_TERMINATION_LOG = "/dev/termination-log"
_MESSAGE_BYTES = 4096
"""What Kubernetes keeps of a termination message."""
_ROOT_CAUSE_SECONDS = 15.0
"""How long to look for the reason that another node may still be writing."""


class _Processes:
    """The processes of this node. SIGTERM that this process gets goes to each of the stage's, once."""

    def __init__(self, words: list[str], environ: dict[str, str], cwd: str | None, *, single: bool) -> None:
        self.stopped = False
        self._single = single
        with self._signals():
            self._process = subprocess.Popen(words, env=environ, cwd=cwd, preexec_fn=die_with_parent_hook)
            if self.stopped:  # the signal came before there was anybody to tell
                self._pass_on()
            self.code = self._process.wait()

    @contextlib.contextmanager
    def _signals(self) -> Generator[None]:
        before = {number: signal.signal(number, self._told) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _told(self, number: int, frame: FrameType | None) -> None:
        if not self.stopped:
            self.stopped = True
            if hasattr(self, "_process"):
                self._pass_on()

    def _pass_on(self) -> None:
        if self._single:
            _tell(signal.SIGTERM, self._process.pid)
            return
        # torchrun would kill its processes 30 s after a signal of its own: less than saving a state may take.
        # Where it has none it waits for other nodes, for minutes, in which it hears of no signal.
        ranks = _children(self._process.pid)
        _tell(SAVE_AND_LEAVE if ranks else signal.SIGKILL, *(ranks or [self._process.pid]))


def _tell(number: signal.Signals, *pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return []


@dataclass(frozen=True)
class _Seen:
    """What this node saw of the first process that failed."""

    exit_code: int
    """Negative for a signal."""
    who: str
    message: str = ""

    @property
    def how(self) -> str:
        """``rank 3, exit code 1`` or ``rank 3, SIGKILL``."""
        code = self.exit_code
        return f"{self.who}, {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"


def _run(node: Node, module: str, job: str) -> Failure | None:
    """Start, wait, and say how it ended; None for success."""
    wait_for_master(node)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        environ = environment(os.environ) | {"COMPOSE_RL_AGENT_REPORT": str(report)}
        # LLM Foundry writes small files where it is started, and an image may be read-only.
        cwd = None if os.access(".", os.W_OK) else folder
        processes = _Processes(command(node, module, job), environ, cwd, single=node.single)
        if processes.code == 0:
            return None
        seen = _Seen(processes.code, "rank 0" if node.single else "torchrun")
        if report.exists():
            seen = _Seen(**json.loads(report.read_text()))
    return _conclusion(job, seen, stopped=processes.stopped)


def _conclusion(job: str, seen: _Seen, *, stopped: bool) -> Failure:
    """How the attempt ended: what the stage itself says of it, else what was seen of its processes.

    A process that was killed could not say anything; that is done here, so that other nodes, which see no
    more than a lost connection, learn of it.
    """
    code = seen.exit_code if seen.exit_code > 0 else 128 - seen.exit_code
    found = _said(job, _ROOT_CAUSE_SECONDS if code == EXIT_TRANSIENT else 0)
    if found is not None:
        return Failure(exit_code=found.exit_code, message=f"{found.message} ({seen.how})")
    if stopped:
        return Failure(exit_code=EXIT_TRANSIENT, message=f"told to stop (SIGTERM) ({seen.how})")
    if seen.message:
        return Failure(exit_code=code, message=f"{seen.message} ({seen.how})")
    remedy = "; out of memory? lower the batch or the token budget" if code == 128 + signal.SIGKILL else ""
    failure = Failure(exit_code=code, message=f"a process ended ({seen.how}){remedy}")
    with contextlib.suppress(UserError, TransientError):
        split(job)[0].create(FAILURE_NAME, failure.model_dump_json().encode())
    return failure


def _said(job: str, seconds: float) -> Failure | None:
    """The attempt's failure file, waited for: the process that failed first may be on another node."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(UserError, TransientError):
            return Failure.model_validate_json(split(job)[0].read(FAILURE_NAME))
        if time.monotonic() >= end:
            return None
        time.sleep(0.5)


def _take_secrets(folder: Path) -> None:
    """What a pod whose operator knows no ``envFrom`` has mounted; variables that are set stay as they are."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name.isidentifier():
            os.environ.setdefault(path.name, path.read_text())


def _leave_message(message: str) -> None:
    """Where Kubernetes looks for it; it has made the file."""
    path = Path(os.environ.get("COMPOSE_RL_TERMINATION_LOG", _TERMINATION_LOG))
    with contextlib.suppress(OSError):
        if path.exists():
            path.write_bytes(message.encode()[:_MESSAGE_BYTES])


def main(words: list[str] | None = None) -> int:
    """Run the stage's processes of this node; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m compose_rl.launch.trainer", description=__doc__)
    parser.add_argument("--module", required=True, help="what is started as python -m")
    parser.add_argument("--job", required=True, help="path or s3:// URI of the attempt's job.json")
    parser.add_argument("--nodes", type=int, help="by default PET_NNODES, else 1")
    parser.add_argument("--procs", help="processes on this node; by default PET_NPROC_PER_NODE, else 1")
    parser.add_argument("--secrets", type=Path, help="folder of files to take as environment variables")
    arguments = parser.parse_args(words)
    if arguments.secrets:
        _take_secrets(arguments.secrets)
    try:
        here = this_node(arguments.nodes, arguments.procs, os.environ)
        failure = _run(here, arguments.module, arguments.job)
    except (UserError, TransientError) as error:
        failure = Failure(exit_code=error.exit_code, message=str(error))
    if failure is None:
        return 0
    line = " ".join(failure.message.split())
    print(f"error: {line}", file=sys.stderr, flush=True)
    _leave_message(line)
    return failure.exit_code or EXIT_BUG


if __name__ == "__main__":
    sys.exit(main())
