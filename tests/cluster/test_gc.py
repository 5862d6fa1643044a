"""``compose-rl gc`` beside running launchers: what it takes off the cluster, and what it lets be."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from clients import Object
from launching import Launchers
from space import Space
from workflows import Run

from compose_rl.store import open_store


def gc(space: Space, *words: str) -> str:
    """Run the command as in its CronJob; what it printed."""
    command = [
        sys.executable,
        "-m",
        "compose_rl.cli",
        "gc",
        "--storage",
        space.storage,
        "--wait",
        "1s",
        *words,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def left(job: Object) -> bool:
    suspended = job["spec"]["runPolicy"]["suspend"]
    assert suspended == ("compose-rl/left" in job["metadata"]["annotations"])
    return suspended


def leases(space: Space) -> list[str]:
    return [entry.path for entry in open_store(space.storage).list("leases")]


@pytest.mark.scenario("gc: run over, launcher killed")
def test_a_job_whose_run_is_over_is_left_and_later_removed(
    pipelines: None, api_launchers: Launchers, space: Space
) -> None:
    run = Run(space, "first")
    run.killed_step(api_launchers)
    assert "0 jobs left" in gc(space)  # its run still goes on and may start the step again
    run.finish()
    said = gc(space, "--dry-run")
    assert "would be left: PyTorchJob crl-toy-" in said
    assert not left(space.jobs[0])
    said = gc(space)
    assert "1 jobs left" in said
    (job,) = space.jobs
    assert left(job)
    assert json.loads(job["metadata"]["annotations"]["compose-rl/holders"]) == []
    assert "0 jobs removed" in gc(space)
    said = gc(space, "--older-than", "0s")
    assert "1 jobs removed" in said
    assert space.jobs == []
    assert leases(space) == []


@pytest.mark.scenario("gc: run removed, another still waits")
def test_a_job_that_another_launcher_still_waits_for_goes_on(
    pipelines: None, api_launchers: Launchers, space: Space
) -> None:
    run = Run(space, "first")
    gone = run.step(api_launchers)
    gone.until(lambda: space.jobs, "a job")
    alive = api_launchers.toy()  # outside of pipelines: its lease alone speaks for it
    alive.says("joined PyTorchJob")
    gone.kill()
    run.finish("Error")
    assert "0 jobs left" in gc(space, "--older-than", "0s")
    (job,) = space.jobs
    assert not left(job)
    (holder,) = json.loads(job["metadata"]["annotations"]["compose-rl/holders"])
    assert not holder.startswith(run.uid)
    assert not job["metadata"].get("ownerReferences")
    assert [path.rpartition("/")[2] for path in leases(space)] == [f"{holder}.json"]
    alive.kill()
    assert "1 jobs left" in gc(space)
    assert left(space.jobs[0])


@pytest.mark.scenario("gc: another storage's jobs")
def test_jobs_of_another_storage_are_not_looked_at(api_launchers: Launchers, space: Space) -> None:
    launcher = api_launchers.toy()
    launcher.until(lambda: space.jobs, "a job")
    launcher.kill()
    command = [sys.executable, "-m", "compose_rl.cli", "gc", "--storage", f"{space.storage}/elsewhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "gc: 0 jobs left, 0 jobs removed, 0 leases removed, 0 attempts removed, 0 B freed\n"
    assert not left(space.jobs[0])
