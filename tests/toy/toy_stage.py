"""A stage of the standard library alone, run by tests through the real mechanism."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from compose_rl.config.schema import Config, neutral
from compose_rl.errors import TransientError, UserError
from compose_rl.stages.job import Job, Result, main
from compose_rl.stages.spec import Slot, StageSpec
from compose_rl.store import open_store


class ToyConfig(Config):
    text: str = "hello"
    times: int = 1
    pause: float = neutral(0.0, "seconds to wait before the result")
    fail: str = neutral("", "how to fail: one of FAILURES")
    fail_rank: int = neutral(-1, "the one rank that fails; -1: every rank")
    checkpoint: bool = neutral(False, "whether to save a state before the pause")
    runs: str = neutral("", "a file that gets a line each time the stage really runs")


def user() -> None:
    raise UserError("toy: fail=user: asked for; leave it out")


def transient() -> None:
    raise TransientError("toy: fail=transient: asked for")


def bug() -> None:
    raise ZeroDivisionError("asked for")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def memory() -> None:
    """Take memory until somebody ends it."""
    taken = []
    while True:
        taken.append(bytearray(b"x") * (8 << 20))


FAILURES = {"user": user, "transient": transient, "bug": bug, "kill": kill, "memory": memory}

SPEC = StageSpec(
    name="toy",
    version=1,
    doc="writes its text",
    config=ToyConfig,
    inputs={"earlier": Slot(stages=("toy",), doc="another toy", optional=True)},
    outputs={"text": "text.txt"},
    module="toy_stage",
    distributed=True,
    accelerated=True,
)


def run(job: Job) -> Result:
    config: ToyConfig = job.config
    if config.runs:
        with Path(config.runs).open("a") as file:
            file.write(f"{job.attempt} {job.rank}\n")
    if config.checkpoint and job.rank == 0:
        open_store(job.checkpoints).write("state", job.attempt.encode())
    if config.fail and config.fail_rank in (-1, job.rank):
        FAILURES[config.fail]()
    earlier = (job.input("earlier", "text") / "text.txt").read_text() if "earlier" in job.inputs else ""
    (job.scratch / "draft.txt").write_text("draft")
    if job.rank == 0:
        (job.output("text") / "text.txt").write_text(earlier + config.text * config.times)
    with job.progress.phase("wait", total=config.pause, unit="s") as phase:
        end = time.monotonic() + config.pause
        while time.monotonic() < end:
            time.sleep(0.01)
            phase.advance(0.01)
    return Result(metrics={"length": len(config.text)}, info={"earlier": job.earlier_checkpoints()})


if __name__ == "__main__":
    main(SPEC, run)
