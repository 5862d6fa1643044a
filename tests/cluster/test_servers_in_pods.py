"""Online RL with its servers in pods: lost ones are replaced; what holds for a job holds for the group."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import train_pods
from clients import Object
from launching import Launcher, Launchers
from online_launching import SERVERS, OnlineLaunchers
from space import Space

from compose_rl.errors import EXIT_USER
from compose_rl.store import open_store
from compose_rl.store.manifest import Manifest

pytestmark = [pytest.mark.node, pytest.mark.timeout(500)]
SIGTERM_EXIT = 128 + signal.SIGTERM


@pytest.fixture
def online(
    node_launchers: Launchers, space: Space, trainers: dict[str, Any], tmp_path: Path
) -> Iterator[OnlineLaunchers]:
    yield OnlineLaunchers(node_launchers, space, trainers, tmp_path)


def result(space: Space) -> Manifest:
    store = open_store(space.storage)
    (path,) = [e.path for e in store.list("online_rl") if e.path.endswith("/manifest.json")]
    return Manifest.from_json(store.read(path), path)


def curve(space: Space, metric: str) -> list[float]:
    text = open_store(result(space).output("curves").uri).read("curves.jsonl").decode()
    metrics = [json.loads(line)["metrics"] for line in text.splitlines()]
    return [each[metric] for each in metrics if metric in each]


def kill(pod: Object) -> None:
    """SIGKILL to the server's own process in a pod, which runs on this machine."""
    name = pod["metadata"]["name"]
    hostname = name.rpartition("-")[0].encode()  # without the random end: <job>-<index>
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words, environ = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:
            continue
        if b"compose_rl.rollouts.server" in words and b"HOSTNAME=" + hostname + b"\0" in environ:
            os.kill(int(folder.name), signal.SIGKILL)
            return
    raise AssertionError(f"no server runs in {name}")


def running(online: OnlineLaunchers) -> set[str]:
    """The names of server pods that run."""
    return {p["metadata"]["name"] for p in online.server_pods if p["status"]["phase"] == "Running"}


def iteration(launcher: Launcher, number: int) -> None:
    launcher.says(f"iteration {number}:", 240)


@pytest.mark.scenario("servers that are killed are replaced")
def test_the_loop_goes_on_while_servers_are_lost(online: OnlineLaunchers, space: Space) -> None:
    launcher = online.start(12)
    iteration(launcher, 1)
    before = running(online)
    assert len(before) == SERVERS
    first, second = sorted(online.server_pods, key=lambda pod: pod["metadata"]["name"])
    kill(first)
    launcher.says(f"server pod {first['metadata']['name']} is lost, another takes its place", 60)
    name = second["metadata"]["name"]
    space.admin.core.delete_namespaced_pod(name, space.namespace, grace_period_seconds=0)
    launcher.until(lambda: running(online) and running(online).isdisjoint(before), "others", 60)
    assert launcher.wait(300) == 0, launcher.output
    assert len(space.jobs) == 1
    assert len(curve(space, "rollout/reward")) == 12
    (group,) = online.groups
    assert group["spec"]["suspend"] is True
    online.launchers.until(lambda: not running(online), "no server", 60)


@pytest.mark.scenario("servers: terminate, then resume")
def test_a_run_that_is_terminated_saves_leaves_nothing_and_goes_on(
    online: OnlineLaunchers, space: Space
) -> None:
    launcher = online.start(60)
    iteration(launcher, 2)
    assert launcher.terminate() == SIGTERM_EXIT
    (group,) = online.groups
    assert group["spec"]["suspend"] is True
    online.launchers.until(lambda: space.admin.all_pods(space.namespace) == [], "no pod", 90)
    saved = [e.path for e in open_store(space.storage).list("online_rl") if e.path.endswith(".whole.json")]
    assert saved, "the trainer did not save"
    again = online.start(60)
    assert again.wait(300) == 0, again.output
    assert "resum" in again.output
    assert len(space.jobs) == len(online.groups) == 2
    assert len(curve(space, "rollout/reward")) == 60


@pytest.mark.scenario("servers: lease expiry frees their pods")
def test_without_a_launcher_servers_leave_with_their_trainers(online: OnlineLaunchers, space: Space) -> None:
    launcher = online.start(10**6)
    iteration(launcher, 1)
    launcher.kill()

    def ended() -> bool:
        return not any(pod["status"]["phase"] in ("Running", "Pending") for pod in space.pods)

    online.launchers.until(ended, "no running pod", 150)
    # Done, as far as Kubernetes knows, so that none takes their place.
    assert {pod["status"]["phase"] for pod in online.server_pods} == {"Succeeded"}


@pytest.mark.scenario("servers: refused what they were started with")
def test_what_a_server_refuses_ends_the_step_with_its_line(online: OnlineLaunchers, space: Space) -> None:
    launcher = online.start(2, options={"rows": 0})
    assert launcher.wait(120) == EXIT_USER
    (line,) = [line for line in launcher.output.splitlines() if line.startswith("error: ")]
    assert "engine.options.rows: 0" in line and "server pod crl-online-rl-" in line
    assert space.jobs[0]["spec"]["runPolicy"]["suspend"] is True


@pytest.mark.scenario("servers: vLLM in an image of its own")
def test_vllm_serves_from_an_image_of_its_own(online: OnlineLaunchers, space: Space) -> None:
    if not train_pods.environment_folder("rollout").exists():
        pytest.skip("the environment 'rollout' is not installed")
    rollout = {"image": train_pods.load_image("rollout"), "memory": "6Gi"}
    # Graphs and compilation are left out to start sooner.
    engine = {"kind": "vllm", "servers": 1, "kv_cache_gib": 0.25, "enforce_eager": True}
    launcher = online.start(3, rollout=rollout, **engine)
    assert launcher.wait(400) == 0, launcher.output
    assert len(curve(space, "rollout/reward")) == 3
