"""Launchers that are killed, told to stop, or not alone: one job at a key, and no pod without a launcher."""

from __future__ import annotations

import json
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import up
from launching import Launchers
from space import Space

from compose_rl.errors import EXIT_BUG
from compose_rl.store import open_store

pytestmark = pytest.mark.node
FOR_EVER = 900.0
SIGTERM_EXIT = 128 + signal.SIGTERM
KILLS, AT_ONCE = 20, 4


def running(space: Space) -> bool:
    """Whether the container of each pod runs."""
    return bool(space.pods) and all(pod["status"]["phase"] == "Running" for pod in space.pods)


def holders(space: Space) -> list[str]:
    return json.loads(space.jobs[-1]["metadata"]["annotations"]["compose-rl/holders"])


def manifests(space: Space) -> list[str]:
    entries = open_store(space.storage).list("toy")
    return [entry.path for entry in entries if entry.path.endswith("manifest.json")]


@pytest.mark.scenario(f"kill -9 at {KILLS} moments, then a second start")
def test_a_killed_launcher_leaves_one_job_that_the_next_one_takes(
    node_launchers: Launchers, space: Space
) -> None:
    chance = random.Random(0)

    def killed_and_started_again(moment: int, seconds: float) -> None:
        config = {"text": f"kill {moment}", "pause": 2.0}
        first = node_launchers.toy(config)
        time.sleep(seconds)
        first.kill()
        second = node_launchers.toy(config)
        assert second.wait(200) == 0, second.output

    with ThreadPoolExecutor(AT_ONCE) as pool:
        moments = [chance.uniform(0.2, 15) for _ in range(KILLS)]
        list(pool.map(killed_and_started_again, range(KILLS), moments))
    assert len(space.jobs) <= KILLS
    assert len(manifests(space)) == KILLS
    outputs = [entry.path for entry in open_store(space.storage).list("toy") if "/text/" in entry.path]
    assert len(outputs) == KILLS  # no second attempt, not even one that came too late
    node_launchers.until(lambda: not any(p["status"]["phase"] == "Running" for p in space.pods), "no pod")


@pytest.mark.scenario("terminate: suspended, pods gone")
def test_sigterm_takes_the_pods_away(node_launchers: Launchers, space: Space) -> None:
    launcher = node_launchers.toy({"pause": FOR_EVER})
    launcher.until(lambda: running(space), "running pod")
    assert launcher.terminate() == SIGTERM_EXIT
    (job,) = space.jobs
    assert job["spec"]["runPolicy"]["suspend"] is True
    node_launchers.until(lambda: space.admin.all_pods(space.namespace) == [], "no pod")


@pytest.mark.scenario("two launchers, one job; the last one out suspends it")
def test_terminating_one_launcher_leaves_the_others_work(node_launchers: Launchers, space: Space) -> None:
    first = node_launchers.toy({"pause": FOR_EVER})
    first.until(lambda: running(space), "running pod")
    second = node_launchers.toy({"pause": FOR_EVER})
    second.says("joined")
    (pod,) = space.pods
    assert first.terminate() == SIGTERM_EXIT
    time.sleep(15)  # longer than the lease
    (still,) = space.pods
    assert (still["metadata"]["uid"], still["status"]["phase"]) == (pod["metadata"]["uid"], "Running")
    assert second.process.poll() is None
    assert second.terminate() == SIGTERM_EXIT
    (job,) = space.jobs
    assert job["spec"]["runPolicy"]["suspend"] is True
    node_launchers.until(lambda: space.admin.all_pods(space.namespace) == [], "no pod")


@pytest.mark.scenario("two launchers, one result")
def test_launchers_of_one_key_take_one_result(node_launchers: Launchers, space: Space) -> None:
    launchers = [node_launchers.toy({"pause": 5.0}) for _ in range(2)]
    assert [launcher.wait() for launcher in launchers] == [0, 0]
    assert len(space.jobs) == 1
    assert len(manifests(space)) == 1


@pytest.mark.scenario("lease expiry frees the pods")
def test_without_a_launcher_the_trainers_leave(node_launchers: Launchers, space: Space) -> None:
    launchers = [node_launchers.toy({"pause": FOR_EVER}, nodes=2) for _ in range(2)]
    launchers[0].until(lambda: len(space.pods) == 2 and running(space), "two running pods")
    launchers[0].until(lambda: len(holders(space)) == 2, "two holders")
    for launcher in launchers:
        launcher.kill()
    node_launchers.until(
        lambda: not any(pod["status"]["phase"] == "Running" for pod in space.pods), "no running pod", 120
    )
    assert manifests(space) == []
    third = node_launchers.toy({"pause": 0.0}, nodes=2)  # and the next one starts anew
    assert third.wait(120) == 0


@pytest.mark.scenario("node loss is tried again and resumed")
def test_a_pod_that_is_lost_is_tried_again_from_its_state(node_launchers: Launchers, space: Space) -> None:
    launcher = node_launchers.toy({"pause": 15.0, "checkpoint": True})
    launcher.until(lambda: running(space), "running pod")
    store = open_store(space.storage)
    launcher.until(lambda: any("/checkpoints/" in e.path for e in store.list("toy")), "state")
    (pod,) = space.pods
    space.admin.core.delete_namespaced_pod(pod["metadata"]["name"], space.namespace, grace_period_seconds=0)
    assert launcher.wait(150) == 0
    assert len(space.jobs) == 2
    (path,) = manifests(space)
    assert len(json.loads(store.read(path))["info"]["earlier"]) == 1


@pytest.mark.scenario("job deleted by somebody else")
def test_a_job_that_somebody_deletes_ends_the_step(node_launchers: Launchers, space: Space) -> None:
    launcher = node_launchers.toy({"pause": FOR_EVER})
    launcher.until(lambda: running(space), "running pod")
    space.admin.delete_job(space.namespace, space.jobs[0]["metadata"]["name"])
    assert launcher.wait() == EXIT_BUG
    assert "was deleted by somebody else" in launcher.output
    assert len(space.jobs) == 0


@pytest.mark.scenario("API server away for 60 s")
def test_an_api_server_that_is_away_for_a_minute_is_waited_for(
    node_launchers: Launchers, space: Space
) -> None:
    launcher = node_launchers.toy({"pause": 75.0})
    launcher.until(lambda: running(space), "running pod")
    (pod,) = space.pods
    with up.api_server_away():
        time.sleep(60)
    assert launcher.wait(120) == 0
    assert [each["metadata"]["uid"] for each in space.pods] in ([], [pod["metadata"]["uid"]])
    assert len(space.jobs) == 1
