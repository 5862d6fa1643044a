"""One job per key, shared by launchers that come, go, are killed and start again."""

from __future__ import annotations

import dataclasses
import json
import random
import time
from pathlib import Path

import pytest
from by_hand import succeed, write_status
from clients import Object
from launching import Launcher, Launchers
from space import Space
from workflows import RUN, Run

from compose_rl.errors import EXIT_BUG, EXIT_TRANSIENT, EXIT_USER
from compose_rl.store import open_store

SIGTERM_EXIT = 143


def holders(job: Object) -> list[str]:
    return json.loads(job["metadata"]["annotations"]["compose-rl/holders"])


def owners(job: Object) -> list[str]:
    return [owner["uid"] for owner in job["metadata"].get("ownerReferences", [])]


def note(job: Object, name: str) -> str | None:
    return job["metadata"]["annotations"].get(f"compose-rl/{name}")


def lives(job: Object) -> bool:
    """Whether it may have pods that run."""
    done = {each["type"] for each in job.get("status", {}).get("conditions", []) if each["status"] == "True"}
    return note(job, "left") is None and not done & {"Succeeded", "Failed"}


def holds(launcher: Launcher, space: Space, count: int) -> None:
    """Wait until the newest job has so many holders."""
    launcher.until(lambda: space.jobs and len(holders(space.jobs[-1])) == count, f"{count} holders")


def trainer(space: Space, launcher: Launcher) -> Object:
    """The pod of the newest job, once the operator has made it."""

    def found() -> list[Object]:
        newest = space.jobs[-1]["metadata"]["name"] if space.jobs else ""
        label = "training.kubeflow.org/job-name"
        return [pod for pod in space.pods if pod["metadata"]["labels"].get(label) == newest]

    launcher.until(lambda: len(found()) == 1, "the job's pod")
    return found()[0]


def fail(space: Space, pod: Object, exit_code: int, message: str = "") -> None:
    end = {"exitCode": exit_code, "reason": "Error", "message": message}
    write_status(space, pod, "Failed", {"terminated": end})


def leases(space: Space) -> list[str]:
    return [entry.path for entry in open_store(space.storage).list("leases")]


@pytest.mark.node
@pytest.mark.scenario("success")
def test_a_stage_becomes_a_job_and_gives_its_result(node_launchers: Launchers, space: Space) -> None:
    launcher = node_launchers.toy({"text": "on the cluster"})
    assert launcher.wait() == 0
    (job,) = space.jobs
    assert "manifest: " in launcher.output
    assert leases(space) == []
    name, labels = job["metadata"]["name"], job["metadata"]["labels"]
    key = note(job, "key")
    assert key is not None
    assert name == f"crl-toy-{key[:10]}-1"
    assert labels["compose-rl/key"] == key[:32]
    assert f"{space.storage}/toy/{key}/" in str(note(job, "job"))


@pytest.mark.scenario("owned by the run")
def test_a_step_of_a_pipeline_holds_its_job_for_its_run(
    pipelines: None, api_launchers: Launchers, space: Space
) -> None:
    run = Run(space, "first")
    launcher = run.step(api_launchers)
    pod = trainer(space, launcher)
    (job,) = space.jobs
    assert job["metadata"]["ownerReferences"] == [run.reference]
    assert holders(job)[0].split(".")[0] == run.uid
    assert job["metadata"]["labels"][RUN] == "run-of-first"
    assert [path.split("/")[-1] for path in leases(space)] == [f"{holders(job)[0]}.json"]
    succeed(space, pod)
    assert launcher.wait() == 0
    run.remove()
    launcher_gone = time.monotonic() + 60
    while space.jobs:  # Kubernetes removes it with its run
        assert time.monotonic() < launcher_gone
        time.sleep(0.2)


@pytest.mark.scenario("two runs share a job")
def test_runs_share_a_job_and_leave_it_one_by_one(
    pipelines: None, api_launchers: Launchers, space: Space
) -> None:
    first, second = Run(space, "first"), Run(space, "second")
    one = first.step(api_launchers)
    holds(one, space, 1)
    two = second.step(api_launchers)
    holds(two, space, 2)
    assert owners(space.jobs[0]) == [first.uid, second.uid]
    assert one.terminate() == SIGTERM_EXIT
    (job,) = space.jobs
    assert owners(job) == [second.uid]
    assert lives(job)
    succeed(space, trainer(space, two))
    assert two.wait() == 0
    assert len(space.jobs) == 1


@pytest.mark.scenario("launcher killed, started again")
def test_a_step_that_is_started_again_goes_on_with_its_job(
    pipelines: None, api_launchers: Launchers, space: Space
) -> None:
    run = Run(space, "first")
    launcher = run.step(api_launchers)
    trainer(space, launcher)
    launcher.kill()
    again = run.step(api_launchers)
    again.says("1 of 1 pods")
    (job,) = space.jobs
    assert len(holders(job)) == 1
    succeed(space, trainer(space, again))
    assert again.wait() == 0
    assert len(space.jobs) == 1


@pytest.mark.scenario("started again after the job's end")
@pytest.mark.parametrize("exit_code", [EXIT_USER, EXIT_BUG])
def test_a_step_that_is_started_again_reports_the_end_that_it_missed(
    pipelines: None, api_launchers: Launchers, space: Space, exit_code: int
) -> None:
    run = Run(space, "first")
    launcher = run.step(api_launchers)
    pod = trainer(space, launcher)
    launcher.kill()
    fail(space, pod, exit_code, "rank 0: asked for")
    again = run.step(api_launchers)
    assert again.wait() == exit_code
    assert "rank 0: asked for" in again.output
    assert len(space.jobs) == 1
    other = Run(space, "second").step(api_launchers)  # whoever asks anew may have mended something
    other.until(lambda: len(space.jobs) == 2, "a job of its own")
    assert other.terminate() == SIGTERM_EXIT


@pytest.mark.scenario("tries are counted over restarts")
def test_what_may_pass_is_tried_again_so_many_times_in_all(
    pipelines: None, api_launchers: Launchers, space: Space
) -> None:
    run = Run(space, "first")
    launcher = run.step(api_launchers, tries=2)
    pod = trainer(space, launcher)
    launcher.kill()
    fail(space, pod, EXIT_TRANSIENT, "storage is away")
    launcher = run.step(api_launchers, tries=2)
    launcher.says("try 2 of 2")
    launcher.until(lambda: len(space.jobs) == 2, "the second job")
    fail(space, trainer(space, launcher), EXIT_TRANSIENT, "storage is still away")
    assert launcher.wait() == EXIT_TRANSIENT
    assert "storage is still away" in launcher.output
    assert [note(job, "tries") for job in space.jobs] == ["1", "2"]
    assert run.step(api_launchers, tries=2).wait() == EXIT_TRANSIENT
    assert len(space.jobs) == 2


@pytest.mark.scenario("other resources, same key")
def test_a_launcher_that_asks_for_other_resources_joins_and_says_so(
    api_launchers: Launchers, space: Space
) -> None:
    one = api_launchers.toy(memory="300Mi")
    holds(one, space, 1)
    two = api_launchers.toy(memory="400Mi")
    two.says("resources.requests.memory: 300Mi, yours 400Mi")
    holds(two, space, 2)
    assert len(space.jobs) == 1


@pytest.mark.scenario("same key, other storage")
def test_jobs_for_other_storages_are_not_shared(
    api_launchers: Launchers, space: Space, tmp_path: Path
) -> None:
    one = api_launchers.toy()
    holds(one, space, 1)
    elsewhere = dataclasses.replace(space, storage=f"{space.storage}/elsewhere")
    (tmp_path / "elsewhere").mkdir()
    with Launchers(elsewhere, api_launchers.resources, tmp_path / "elsewhere") as launchers:
        two = launchers.toy()
        two.until(lambda: len(space.jobs) == 2, "a job for the other storage")
        assert [len(holders(job)) for job in space.jobs] == [1, 1]
        assert two.terminate() == SIGTERM_EXIT
    first, second = space.jobs
    assert (lives(first), lives(second)) == (True, False)


@pytest.mark.scenario("a job is deleted while its pods end")
def test_a_number_is_not_used_again_while_pods_carry_it(api_launchers: Launchers, space: Space) -> None:
    launcher = api_launchers.toy()
    pod = trainer(space, launcher)
    launcher.kill()
    finalizer = {"metadata": {"finalizers": ["test.compose-rl/stays"]}}
    space.admin.core.patch_namespaced_pod(pod["metadata"]["name"], space.namespace, finalizer)
    space.admin.delete_job(space.namespace, space.jobs[0]["metadata"]["name"])
    launcher = api_launchers.toy()
    launcher.until(lambda: space.jobs and space.jobs[0]["metadata"]["name"].endswith("-2"), "number 2")
    gone = {"metadata": {"finalizers": None}}
    space.admin.core.patch_namespaced_pod(pod["metadata"]["name"], space.namespace, gone)


@pytest.mark.scenario("SIGTERM at any moment")
def test_a_launcher_that_is_told_to_stop_at_any_moment_leaves_no_job(
    api_launchers: Launchers, space: Space
) -> None:
    chance = random.Random(17)
    for number in range(8):
        launcher = api_launchers.toy({"text": f"text {number}"})
        # The moments that count are around the making of the job.
        launcher.until(lambda: leases(space), "a lease")
        time.sleep(chance.uniform(0, 0.3))
        assert launcher.terminate() in (SIGTERM_EXIT, 0)
        assert not [job for job in space.jobs if lives(job)], launcher.output


@pytest.mark.scenario("terminate, killed a second later")
def test_the_one_call_comes_within_a_moment_of_the_signal(api_launchers: Launchers, space: Space) -> None:
    launcher = api_launchers.toy()
    trainer(space, launcher)
    launcher.process.terminate()
    time.sleep(1)  # what KFP leaves a step
    launcher.kill()
    (job,) = space.jobs
    assert not lives(job)
    assert holders(job) == []
