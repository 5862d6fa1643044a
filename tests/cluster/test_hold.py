"""Launchers that come and go at random: what may never be seen on the server, at no version of any object."""

from __future__ import annotations

import contextlib
import json
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from clients import GROUP, PYTORCHJOBS, Admin, Object
from kubernetes import watch
from space import Space
from urllib3.exceptions import HTTPError
from workflows import Run

sys.path.insert(0, str(Path(__file__).parents[1] / "toy"))
from toy_stage import SPEC

from compose_rl.config.resources import Resources
from compose_rl.launch.backend import JobRequest
from compose_rl.launch.kubernetes.api import Api
from compose_rl.launch.kubernetes.hold import Hold, Place
from compose_rl.launch.kubernetes.identity import Identity
from compose_rl.launch.kubernetes.kinds import KINDS
from compose_rl.store import open_store

LAUNCHERS, ROUNDS = 6, 4


def asked(space: Space) -> JobRequest:
    resources = Resources(backend="pytorchjob", image="docker.io/local/none:1", scheduler_name="by-hand")
    key = SPEC.key(SPEC.parse({}, {}), {})
    return JobRequest(
        spec=SPEC, key=key, store=open_store(space.storage), config={}, inputs={}, resources=resources
    )


def a_launcher(space: Space, identity: Identity, seed: int, seen: list[tuple[str, str]]) -> None:
    """Take the job, perhaps look at it for a moment, leave: again and again."""
    chance, api = random.Random(seed), Api.connect()
    for _ in range(ROUNDS):
        hold = Hold(
            Place(kind=KINDS["pytorchjob"], api=api, identity=identity, image=""), asked(space), _quiet
        )
        job = hold.take(tries=1)
        assert job is not None
        seen.append((identity.holder, job["metadata"]["name"]))
        time.sleep(chance.uniform(0, 0.3))
        if chance.random() < 0.5:  # what a launcher last saw may be old when it leaves
            hold.seen(api.get(KINDS["pytorchjob"].resource, job["metadata"]["name"]))
        hold.leave("its last launcher was told to")
        time.sleep(chance.uniform(0, 0.2))


def _quiet(line: str) -> None:
    pass


class Versions(threading.Thread):
    """Every version of every job, in the order in which the server made them."""

    def __init__(self, admin: Admin, namespace: str) -> None:
        super().__init__(daemon=True)
        self.found: list[Object] = []
        self._listing = (admin.custom.list_namespaced_custom_object, *GROUP, namespace, PYTORCHJOBS)

    def run(self) -> None:
        with contextlib.suppress(HTTPError):  # the cluster may be gone before this thread is
            for event in watch.Watch().stream(*self._listing, resource_version="0"):
                self.found.append(event["object"])


def facts(job: Object) -> dict[str, Any]:
    notes = job["metadata"]["annotations"]
    return {
        "holders": json.loads(notes["compose-rl/holders"]),
        "owners": [owner["uid"] for owner in job["metadata"].get("ownerReferences", [])],
        "left": "compose-rl/left" in notes,
        "suspended": job["spec"]["runPolicy"]["suspend"],
    }


@pytest.mark.scenario("launchers that come and go at random")
def test_whatever_launchers_do_at_once_there_is_one_job_and_it_is_held(
    pipelines: None, admin: Admin, space: Space
) -> None:
    runs = [Run(space, name) for name in ("first", "second", "third")]
    versions = Versions(admin, space.namespace)
    versions.start()
    identities = [
        Identity(holder=f"{runs[n % 3].uid}.step-{n}", owner=runs[n % 3].reference)
        for n in range(LAUNCHERS - 1)
    ]
    identities.append(Identity(holder="laptop-17"))
    seen: list[tuple[str, str]] = []
    with ThreadPoolExecutor(LAUNCHERS) as pool:
        list(pool.map(lambda n: a_launcher(space, identities[n], n, seen), range(LAUNCHERS)))
    jobs = {job["metadata"]["name"]: job for job in space.jobs}
    newest = {name: int(job["metadata"]["resourceVersion"]) for name, job in jobs.items()}
    _until_seen(versions, newest)
    assert {name for _, name in seen} == jobs.keys()
    assert all(facts(job)["left"] for job in jobs.values())
    living: set[str] = set()
    for job in versions.found:
        name, now = job["metadata"]["name"], facts(job)
        assert now["suspended"] == now["left"] == (not now["holders"]), now
        if not now["left"]:
            workflows = {holder.partition(".")[0] for holder in now["holders"]} - {"laptop-17"}
            assert set(now["owners"]) == workflows
            assert len(now["owners"]) == len(workflows)
        living = living - {name} if now["left"] else living | {name}
        assert len(living) <= 1, living
    most = max(len(facts(job)["holders"]) for job in versions.found)
    assert most > 1, "nobody ever shared a job: the test tests nothing"
    assert len(jobs) > 1, "nobody ever left a job for good: the test tests nothing"
    attempts = open_store(space.storage).folders(f"toy/{asked(space).key}")
    assert len(attempts) == len(jobs), "a launcher that lost the race keeps no attempt"


def _until_seen(versions: Versions, newest: dict[str, int]) -> None:
    end = time.monotonic() + 30
    while True:
        last = {
            job["metadata"]["name"]: int(job["metadata"]["resourceVersion"]) for job in list(versions.found)
        }
        if all(last.get(name, 0) >= version for name, version in newest.items()):
            return
        assert time.monotonic() < end, (last, newest)
        time.sleep(0.2)
