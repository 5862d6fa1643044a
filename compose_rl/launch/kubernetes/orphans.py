"""Jobs that nobody waits for any more: their runs are over and their leases are not renewed."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from compose_rl.launch.kubernetes import naming
from compose_rl.launch.kubernetes.api import Api, NotFound, NotServed
from compose_rl.launch.kubernetes.holders import holders, is_left, leaving, notes, workflow_of
from compose_rl.launch.kubernetes.jobkind import JobKind, true_conditions
from compose_rl.launch.kubernetes.kinds import KINDS
from compose_rl.launch.kubernetes.resource import WORKFLOWS, Object
from compose_rl.launch.kubernetes.writing import write
from compose_rl.store import Store
from compose_rl.store.leases import LEASES

__all__ = ["OurJob", "leave", "our_jobs", "remove", "running_workflows", "suspects"]

_OVER = {"Succeeded", "Failed", "Error"}
"""Phases of a Workflow that does nothing more."""


@dataclass(frozen=True)
class OurJob:
    """A job that was made by a launcher, for one storage."""

    kind: JobKind
    object: Object
    root: str
    """URI of the storage."""

    @property
    def name(self) -> str:
        return f"{self.kind.kind} {self.object['metadata']['name']}"

    @property
    def key(self) -> str:
        return notes(self.object)[naming.KEY]

    @property
    def lives(self) -> bool:
        """Whether it may have pods."""
        return not is_left(self.object) and not self.kind.phase(self.object).ended

    @property
    def attempt(self) -> str:
        """The folder of its attempt, below the storage."""
        return notes(self.object)[naming.JOB].removeprefix(f"{self.root}/").rpartition("/")[0]

    @property
    def leases(self) -> dict[str, str]:
        """The paths of the leases of its holders, by holder."""
        return {holder: f"{LEASES}/{self.key}/{holder}.json" for holder in holders(self.object)}

    @property
    def idle_seconds(self) -> float:
        """How long ago it changed for the last time, by the API server's clock and ours."""
        times = [condition.get("lastTransitionTime") for condition in true_conditions(self.object).values()]
        found = [_seconds(text) for text in (*times, self.object["metadata"]["creationTimestamp"]) if text]
        return time.time() - max(found)


def our_jobs(api: Api, store: Store) -> list[OurJob]:
    """The jobs of every kind in the namespace that write to this storage."""
    found: list[OurJob] = []
    for kind in KINDS.values():
        try:
            jobs, _ = api.list(kind.resource, f"{naming.APP_LABEL}={naming.APP}")
        except NotServed:
            continue
        ours = [job for job in jobs if notes(job).get(naming.JOB, "").startswith(f"{store.uri}/")]
        found += [OurJob(kind, job, store.uri) for job in ours]
    return found


def running_workflows(api: Api) -> set[str]:
    """The uids of the runs that still go on."""
    try:
        found, _ = api.list(WORKFLOWS)
    except NotServed:
        return set()
    return {str(each["metadata"]["uid"]) for each in found if not _is_over(each)}


def suspects(job: OurJob, running: Collection[str]) -> set[str]:
    """The holders of a job whose run is over or gone, and those outside of pipelines: their leases decide."""
    return {holder for holder in holders(job.object) if workflow_of(holder) not in running}


def leave(api: Api, job: OurJob, gone: set[str], *, why: str) -> bool:
    """Take holders that are gone off a job; whether that has stopped it, for the reason ``why``."""

    def change(found: Object) -> tuple[Object, bool] | None:
        return leaving(found, gone, kind=job.kind, why=why)

    try:
        return write(api, job.kind, job.object, change)
    except NotFound:
        return False


def remove(api: Api, job: OurJob) -> None:
    """Delete the object."""
    metadata = job.object["metadata"]
    try:
        api.delete(job.kind.resource, metadata["name"], uid=metadata["uid"])
    except NotFound:
        return


def _is_over(workflow: Object) -> bool:
    status: dict[str, Any] = workflow.get("status") or {}
    return status.get("phase") in _OVER


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
