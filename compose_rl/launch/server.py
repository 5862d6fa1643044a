"""What a rollout server's container runs: ``python -m compose_rl.launch.server --job URI --port N``.

It fetches the model that the job starts from, starts the server (:mod:`compose_rl.rollouts.server`) and ends
it when no launcher holds a lease on the job's key any more: exit code 0, so that no other takes its place.
Told to stop, it answers what its trainers still ask, so that they can bring their batch to an end and save.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys

from compose_rl.config.rollouts import server_words
from compose_rl.config.schema import parse
from compose_rl.errors import TransientError, UserError
from compose_rl.lifeline import die_with_parent_hook
from compose_rl.stages.attempt import JobFile
from compose_rl.stages.sources import local_model
from compose_rl.stages.spec import load
from compose_rl.stages.watch import Leave, watch_leases
from compose_rl.store import open_store, split
from compose_rl.store.leases import Leases

__all__ = ["main"]

_DRAIN_SECONDS = 10.0
_LOOK_SECONDS = 0.5


def _command(job: JobFile, port: int) -> list[str]:
    spec = load(job.stage)
    assert spec.servers is not None, job.stage
    # Parsed alone: what is checked of rewards may need files that only trainers have.
    plan = spec.servers(parse(spec.config, job.config, job.stage), job.inputs)
    assert plan is not None, job.key
    words = server_words(plan.engine, local_model(job.inputs["model"]), plan.max_length)
    words += ["--host", "0.0.0.0", "--port", str(port)]
    return [sys.executable, *words, f"--drain-seconds={_DRAIN_SECONDS:g}"]


def _serve(job: JobFile, words: list[str]) -> int:
    """Until the server ends, is told to, or has nobody left to serve; the exit code."""
    leave, told = Leave(), False
    process = subprocess.Popen(words, preexec_fn=die_with_parent_hook)

    def stop(*_: object) -> None:
        nonlocal told
        told = True
        process.terminate()

    signal.signal(signal.SIGTERM, stop)
    leases = Leases(open_store(job.storage), job.key)
    with watch_leases(leases, job.lease_minutes, leave), leave.ends_itself():
        # As long as its trainers, which may need answers before they can save.
        while not leave.overdue:
            try:
                code = process.wait(_LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                continue
            # To Kubernetes a pod that ends with 0 has done its work, and nothing replaces it.
            return 128 + signal.SIGTERM if told else (code if code > 0 else 128 - code)
    print(f"rollout server: {leave.reason}", flush=True)
    process.kill()
    process.wait()
    return 0


def _leave(*_: object) -> None:
    sys.exit(128 + signal.SIGTERM)


def main(words: list[str] | None = None) -> int:
    """Run the server of this pod; the exit code (:mod:`compose_rl.errors`)."""
    parser = argparse.ArgumentParser(prog="python -m compose_rl.launch.server", description=__doc__)
    parser.add_argument("--job", required=True, help="path or s3:// URI of the attempt's job.json")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args(words)
    # Until there is a server: at once. Python would otherwise ignore it, being a container's first process.
    signal.signal(signal.SIGTERM, _leave)
    try:
        store, name = split(arguments.job)
        job = parse(JobFile, json.loads(store.read(name)), arguments.job)
        print(f"rollout server: for {job.stage}, key {job.key[:10]}", flush=True)
        return _serve(job, _command(job, arguments.port))
    except (UserError, TransientError) as error:
        print(f"rollout server: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
