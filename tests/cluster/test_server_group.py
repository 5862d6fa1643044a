"""A job and its rollout servers on a real control plane: made, owned, suspended and resumed together."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import pytest
import up
from clients import Object
from crds import TRAINER
from kubernetes import client, config
from places import ADMIN
from space import Space
from test_gc import gc
from test_kinds import EVERYTHING

from compose_rl.config.resources import Resources
from compose_rl.launch.backend import JobRequest
from compose_rl.launch.kubernetes.api import Api
from compose_rl.launch.kubernetes.hold import Hold, Place
from compose_rl.launch.kubernetes.identity import Identity
from compose_rl.launch.kubernetes.kinds import KINDS
from compose_rl.store import open_store

sys.path.insert(0, str(Path(__file__).parents[1] / "launch"))
from test_server_objects import INPUTS, asked

SERVER = {"kind": "server", "servers": 2}


COMMON = {"image": "docker.io/local/none:1", "lease_minutes": 0.1}
FIXED = {"pytorchjob": {**COMMON, "scheduler_name": "by-hand"}, "trainjob": COMMON}
"""A TrainJob of a cluster without its operator has no trainers' pods."""


class Launcher:
    """A launcher's hold, in this process."""

    def __init__(
        self, space: Space, folder: Path, holder: str, kind: str = "pytorchjob", **resources: Any
    ) -> None:
        given = {**FIXED[kind], "backend": kind, **resources}
        here = asked(folder, SERVER, **given)
        self.request = JobRequest(
            spec=here.spec,
            key=here.spec.key(here.spec.parse(here.config, INPUTS), INPUTS),
            store=open_store(space.storage),
            config=here.config,
            inputs=INPUTS,
            resources=Resources(**given),
        )
        self.said: list[str] = []
        place = Place(kind=KINDS[kind], api=Api.connect(), identity=Identity(holder=holder), image="")
        self.hold = Hold(place, self.request, self.said.append)

    def take(self) -> Object:
        job = self.hold.take(tries=1)
        assert job is not None
        return job


class Group:
    """What belongs to the job of a space, as its administrator sees it."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._batch = client.BatchV1Api(config.new_client_from_config(str(ADMIN)))

    def _plain(self, found: Any) -> list[Object]:
        return self._batch.api_client.sanitize_for_serialization(found.items)

    @property
    def jobs(self) -> list[Object]:
        return self._plain(self._batch.list_namespaced_job(self._space.namespace))

    @property
    def services(self) -> list[Object]:
        """But for those of the operator."""
        found = self._plain(self._space.admin.core.list_namespaced_service(self._space.namespace))
        return [each for each in found if "-rollout-" in each["metadata"]["name"]]

    @property
    def secrets(self) -> list[Object]:
        found = self._plain(self._space.admin.core.list_namespaced_secret(self._space.namespace))
        return [each for each in found if "-rollout-" in each["metadata"]["name"]]

    @property
    def suspended(self) -> bool:
        (job,) = self.jobs
        return bool(job["spec"].get("suspend"))

    def suspend(self, value: bool) -> None:
        (job,) = self.jobs
        body = {"spec": {"suspend": value}}
        self._batch.patch_namespaced_job(job["metadata"]["name"], self._space.namespace, body)

    def pods(self) -> list[str]:
        return sorted(p["spec"]["hostname"] for p in self._space.pods if "-rollout-" in p["metadata"]["name"])


@pytest.fixture
def group(space: Space) -> Group:
    return Group(space)


@pytest.fixture
def restricted(space: Space) -> None:
    """The namespace refuses every pod that does not meet "restricted"."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    space.admin.core.patch_namespace(space.namespace, {"metadata": {"labels": labels}})


@pytest.mark.scenario("servers: restricted pods with everything that can be asked for")
def test_pods_of_servers_are_restricted(space: Space, group: Group, restricted: None, tmp_path: Path) -> None:
    everything = {name: value for name, value in EVERYTHING.items() if name != "nodes"}
    rollout = {"gpus": 1, "cpu": "250m", "shm": "32Mi", "node_selector": {"pool": "other"}}
    Launcher(space, tmp_path, "a", **everything, rollout=rollout).take()
    up.until(lambda: len(group.pods()) == 2, "a pod for each server", 30)


@pytest.mark.scenario("servers: of a TrainJob")
def test_a_trainjob_has_servers_too(space: Space, group: Group, tmp_path: Path) -> None:
    with TRAINER.installed():
        launcher = Launcher(space, tmp_path, "a", "trainjob")
        job = launcher.take()
        (servers,) = group.jobs
        (owner,) = servers["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("TrainJob", job["metadata"]["uid"])
        assert (len(group.services), len(group.secrets)) == (1, 1)
        assert not group.suspended
        launcher.hold.leave("told to")
        assert group.suspended


@pytest.mark.scenario("servers: made with the job, owned by it, gone with it")
def test_servers_come_and_go_with_their_job(space: Space, group: Group, tmp_path: Path) -> None:
    job = Launcher(space, tmp_path, "a").take()
    (servers,), (service,), (secret,) = group.jobs, group.services, group.secrets
    for each in (servers, service, secret):
        (owner,) = each["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("PyTorchJob", job["metadata"]["uid"])
    name = servers["metadata"]["name"]
    up.until(lambda: group.pods() == [f"{name}-0", f"{name}-1"], "a pod for each server", 30)
    assert len(base64.b64decode(secret["data"]["token"])) == 64
    space.admin.delete_job(space.namespace, job["metadata"]["name"])
    up.until(lambda: not (group.jobs or group.services or group.secrets), "nothing left", 60)


@pytest.mark.scenario("servers: suspended with the job by the last launcher")
def test_the_last_launcher_takes_the_servers_away(space: Space, group: Group, tmp_path: Path) -> None:
    first, second = Launcher(space, tmp_path, "a"), Launcher(space, tmp_path, "b", memory="1Gi")
    first.take()
    second.take()
    assert len(group.jobs) == 1
    assert any("other resources than yours" in line for line in second.said)
    up.until(lambda: len(group.pods()) == 2, "pods", 30)
    first.hold.leave("told to")
    assert not group.suspended
    second.hold.leave("told to")
    assert group.suspended
    up.until(lambda: not group.pods(), "no pod", 30)


@pytest.mark.scenario("servers: a launcher was killed before it made them")
def test_what_is_missing_is_made_by_whoever_takes_the_job_over(
    space: Space, group: Group, tmp_path: Path
) -> None:
    Launcher(space, tmp_path, "a").take()
    (servers,), (service,), (secret,) = group.jobs, group.services, group.secrets
    space.admin.core.delete_namespaced_service(service["metadata"]["name"], space.namespace)
    space.admin.core.delete_namespaced_secret(secret["metadata"]["name"], space.namespace)
    group.suspend(True)
    again = Launcher(space, tmp_path, "a")
    again.hold.seen(again.take())
    assert again.hold.adopted
    assert not group.suspended
    assert [each["metadata"]["name"] for each in group.services] == [service["metadata"]["name"]]
    assert [each["metadata"]["name"] for each in group.secrets] == [secret["metadata"]["name"]]
    assert [each["metadata"]["uid"] for each in group.jobs] == [servers["metadata"]["uid"]]


@pytest.mark.scenario("servers: wait with their job in a queue")
def test_servers_follow_the_switch_of_their_job(space: Space, group: Group, tmp_path: Path) -> None:
    launcher = Launcher(space, tmp_path, "a", queue="team")
    job = launcher.take()
    assert group.suspended
    for value in (False, True):
        patch = {"spec": {"runPolicy": {"suspend": value}}}
        space.admin.patch_job(space.namespace, job["metadata"]["name"], patch)
        launcher.hold.seen(space.jobs[0])
        assert group.suspended is value


@pytest.mark.scenario("servers: freed at the end")
def test_servers_go_when_their_job_has_ended(space: Space, group: Group, tmp_path: Path) -> None:
    launcher = Launcher(space, tmp_path, "a")
    launcher.take()
    assert not group.suspended
    launcher.hold.ended()
    assert group.suspended


@pytest.mark.scenario("servers: gc of a job that nobody holds")
def test_gc_takes_the_servers_of_a_job_that_nobody_holds(space: Space, group: Group, tmp_path: Path) -> None:
    Launcher(space, tmp_path, "a").take()
    assert "1 jobs left" in gc(space)
    assert group.suspended
    assert "1 jobs removed" in gc(space, "--older-than", "0s")
    up.until(lambda: not (group.jobs or group.services or group.secrets), "nothing left", 60)
