"""The end of a run, as its last step tells it to the cluster."""

from __future__ import annotations

import json

import pytest
from launching import Launchers
from space import Space
from workflows import Run

from compose_rl.launch.kubernetes.api import Api
from compose_rl.launch.kubernetes.identity import Identity
from compose_rl.launch.run_end import leave_jobs
from compose_rl.store import open_store


def ended(space: Space, run: Run) -> list[str]:
    last = Identity(holder=f"{run.uid}.report-run")
    return leave_jobs(Api.connect(None, space.namespace), open_store(space.storage), last)


@pytest.mark.scenario("end of a run: launcher killed before")
def test_a_run_that_ends_holds_nothing(pipelines: None, api_launchers: Launchers, space: Space) -> None:
    run, other = Run(space, "first"), Run(space, "second")
    run.killed_step(api_launchers)
    assert ended(space, other) == []
    (job,) = space.jobs
    assert not job["spec"]["runPolicy"]["suspend"]
    assert ended(space, run) == [f"PyTorchJob {job['metadata']['name']}"]
    (job,) = space.jobs
    assert job["spec"]["runPolicy"]["suspend"]
    assert json.loads(job["metadata"]["annotations"]["compose-rl/holders"]) == []
    assert ended(space, run) == []


@pytest.mark.scenario("end of a run: another still waits")
def test_a_job_that_another_run_waits_for_goes_on(
    pipelines: None, api_launchers: Launchers, space: Space
) -> None:
    run = Run(space, "first")
    run.killed_step(api_launchers)
    waiting = api_launchers.toy()
    waiting.says("joined PyTorchJob")
    assert ended(space, run) == []
    (job,) = space.jobs
    assert not job["spec"]["runPolicy"]["suspend"]
    assert len(json.loads(job["metadata"]["annotations"]["compose-rl/holders"])) == 1
