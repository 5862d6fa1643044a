"""Backend ``process``: a job as processes of this machine, several of them through torchrun."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Generator
from types import FrameType

from compose_rl.environments import interpreter
from compose_rl.errors import UserError
from compose_rl.launch.attempts import job_uri
from compose_rl.launch.backend import Ended, JobRequest
from compose_rl.lifeline import PARENT_VARIABLE, die_with_parent_hook
from compose_rl.stages.attempt import JobFile
from compose_rl.stages.spec import StageSpec

__all__ = ["ProcessBackend", "command"]

_DEFAULTS = {"OMP_WAIT_POLICY": "PASSIVE"}
"""What a job finds in its environment unless the user says otherwise. Threads that spin while they wait make
a job several times slower on a machine that has something else to do."""
_GRACE_SECONDS = 30
"""What a job gets between the signal passed on and SIGKILL."""


def command(spec: StageSpec, job: JobFile) -> list[str]:
    """The command line of a job on this machine."""
    start = [interpreter(spec.environment), "-m"]
    if job.procs > 1:
        start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={job.procs}", "-m"]
    return [*start, spec.entry, "--job", job_uri(job)]


class ProcessBackend:
    """Runs jobs in their environment here. A job ends with its launcher, whatever ends that."""

    def run(self, request: JobRequest) -> Ended:
        if request.resources.nodes > 1:
            raise UserError(
                f"resources: nodes={request.resources.nodes}, but processes here are one node; set nodes to 1"
            )
        job = request.begin()
        return Ended(job=job, exit_code=self._run(command(request.spec, job)))

    def _run(self, words: list[str]) -> int:
        process = subprocess.Popen(
            words,
            env={**_DEFAULTS, **os.environ, PARENT_VARIABLE: str(os.getpid()), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # so that a signal reaches all processes of the job, once
            preexec_fn=die_with_parent_hook,
        )
        try:
            with _passing_on(process):
                return process.wait()
        finally:
            _end(process)


@contextlib.contextmanager
def _passing_on(process: subprocess.Popen[bytes]) -> Generator[None]:
    """Send SIGTERM and SIGINT that this process gets to the whole job instead."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python sets signal handlers in the main thread alone; _end covers the others
        return

    # A job may ignore a signal: it has this long from the first one.
    limit = threading.Timer(_GRACE_SECONDS, _signal, (process, signal.SIGKILL))
    limit.daemon = True

    def pass_on(number: int, frame: FrameType | None) -> None:
        _signal(process, number)
        if limit.ident is None:
            limit.start()

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        limit.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of the job behind."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
    _signal(process, signal.SIGKILL)
    process.wait()
