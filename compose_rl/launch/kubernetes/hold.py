"""A launcher's hold on the one job at its key: found or made, joined, left.

docs/decisions/0005-one-job-per-key.md says which races there are and what decides them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from compose_rl.errors import TransientError, UserError
from compose_rl.launch.attempts import job_uri
from compose_rl.launch.backend import JobRequest
from compose_rl.launch.kubernetes import naming
from compose_rl.launch.kubernetes.api import AlreadyExists, Api, Conflict, NotFound
from compose_rl.launch.kubernetes.differences import differences
from compose_rl.launch.kubernetes.holders import (
    given_up,
    held,
    holders,
    is_left,
    joined,
    leaving,
    notes,
    stopping,
)
from compose_rl.launch.kubernetes.identity import Identity
from compose_rl.launch.kubernetes.jobkind import JobKind
from compose_rl.launch.kubernetes.resource import PODS, Object
from compose_rl.launch.kubernetes.writing import switch_servers, write
from compose_rl.stages.attempt import JobFile, published
from compose_rl.store import join as join_uri

__all__ = ["Hold", "Place"]

_LEAVE_SECONDS = 30.0
"""How long a launcher that leaves waits for an API server that is away; the leases do the rest."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a launcher's jobs are, and as whom it holds them."""

    kind: JobKind
    api: Api
    identity: Identity
    image: str
    """Of the trainers, where the resources name none; may be empty."""


class Hold:
    """At most one job, the newest at the key.

    Raises:
        UserError: this kind of job cannot have what the request asks for.
    """

    def __init__(self, place: Place, request: JobRequest, say: Callable[[str], None]) -> None:
        self.kind, self.api, self.identity = place.kind, place.api, place.identity
        self._image = place.image
        # Before anything is made or asked for: it is refused here where this kind of job cannot have it.
        self._digest = self.kind.digest(request, image=place.image)
        self._request = request
        self._say = say
        self._labels = ",".join(
            f"{name}={value}" for name, value in naming.selector(request.spec.name, request.key).items()
        )
        self.adopted = False
        """The job was there before this launcher."""
        self._job: Object | None = None
        self._made = ""
        self._servers_suspended: bool | None = None
        self._touched = ""
        """A job that is being made or joined: whether it is, only the server knows until it answers."""

    def take(self, *, tries: int, after: str = "") -> Object | None:
        """The job to follow: one that is there, or a new one; None when the result is there already.

        Args:
            tries: what is noted on a new job.
            after: name of a job whose end is known.

        Raises:
            UserError: the API refuses, or the name is taken by an object that is not ours.
            TransientError: the API server did not answer for a long time.
        """
        while True:
            # The number follows from the very list that is decided on. Pods, which outlive a job that is
            # deleted, come first: those of a job that is made after the jobs were listed must not count.
            numbers = [0, *map(_number, self.api.list(PODS, self._labels)[0])]
            every, _ = self.api.list(self.kind.resource, self._labels)
            number = 1 + max([*numbers, *map(_number, every)])
            jobs = sorted(filter(self._is_ours, every), key=_number)
            newest = jobs[-1] if jobs else None
            for older in jobs[:-1]:  # held by us only where we were very late to make it
                with contextlib.suppress(NotFound):
                    self._leave(older, "a newer job is there")
            if newest is not None and newest["metadata"]["name"] != after and self._concerns_us(newest):
                found = self._join(newest)
                if found is not None:
                    return found
            elif published(self._request.store, self._request.spec.name, self._request.key) is not None:
                return None
            else:
                self._create(number, tries)

    def seen(self, job: Object) -> None:
        """The job has changed; kept so that leaving it needs few calls. Its servers follow it."""
        self._job = job
        suspended = self.kind.suspended(job)
        if suspended != self._servers_suspended and not is_left(job) and not self.kind.phase(job).ended:
            switch_servers(self.api.fork(patience=_LEAVE_SECONDS), job, suspend=suspended)
            self._servers_suspended = suspended

    def ended(self) -> None:
        """The job has ended, or was left: nobody asks its servers any more."""
        if self._job is not None:
            switch_servers(self.api.fork(patience=_LEAVE_SECONDS), self._job, suspend=True)

    def leave(self, why: str) -> None:
        """Take this launcher away from its job; the last one out suspends it. One call if nobody interferes.

        What cannot be reached is told: the lease, which is not renewed any more, then ends the job.
        """
        try:
            if self._touched:
                self._job = self.api.fork(patience=_LEAVE_SECONDS).get(self.kind.resource, self._touched)
            if self._job is not None:
                self._leave(self._job, why)
        except NotFound:
            self._say("the job is gone")
        except (UserError, TransientError) as error:
            self._say(f"could not leave the job, its trainers will when no lease is renewed: {error}")

    def stop(self, exit_code: int, reason: str) -> None:
        """Free the GPUs of a job of which a part has ended, whoever else holds it: all see the same end."""

        def change(found: Object) -> tuple[Object, bool]:
            return stopping(found, kind=self.kind, exit_code=exit_code, reason=reason), True

        if self._job is not None:
            write(self.api, self.kind, self._job, change)

    def attempt(self, job: Object) -> JobFile:
        """The attempt that a job makes."""
        name = notes(job)[naming.JOB].split("/")[-2]
        return self._request.job_file(leased=True).model_copy(update={"attempt": name})

    def _is_ours(self, job: Object) -> bool:
        """Whether it writes to our storage."""
        start = join_uri(self._request.store.uri, self._request.spec.name, self._request.key)
        return notes(job).get(naming.JOB, "").startswith(f"{start}/")

    def _concerns_us(self, job: Object) -> bool:
        """Whether the newest job is to be followed: it lives, or it ended while we held it."""
        mine = self.identity.holder in holders(job)
        if is_left(job):
            return mine and given_up(job) is not None
        return mine or self._alive(job)

    def _alive(self, job: Object) -> bool:
        return not is_left(job) and not self.kind.phase(job).ended

    def _join(self, found: Object) -> Object | None:
        """The job with us among its holders; None when it has changed and has to be looked at again."""
        patch = joined(found, self.identity)
        if patch is not None and self._alive(found):
            name = self._touched = found["metadata"]["name"]
            try:
                found = self.api.patch(self.kind.resource, name, patch)
            except (Conflict, NotFound):
                self._touched = ""
                return None
            self._say(f"joined {self.kind.kind} {name}, which is there already")
            self._compare(found)
        self._job, self._touched = found, ""
        if self._alive(found):
            self._start_servers(found)
        self.adopted = found["metadata"]["name"] != self._made
        return found

    def _start_servers(self, found: Object) -> None:
        """Make what the job's servers consist of, as far as it is not there."""
        if naming.SERVERS not in notes(found):
            return
        attempt, number = self.attempt(found), _number(found)
        servers = self.kind.servers(
            self._request, job=attempt, number=number, image=self._image, environ=os.environ
        )
        if servers is None or servers.name != notes(found)[naming.SERVERS]:
            return
        self._servers_suspended = self.kind.suspended(found)
        owner, token = self.kind.reference(found), secrets.token_hex(32)
        for resource, body in servers.objects(token, owner, suspend=self._servers_suspended):
            body["metadata"]["labels"] |= self.identity.labels
            try:
                self.api.create(resource, body)
            except AlreadyExists:
                self._servers_suspended = None  # as it was left

    def _compare(self, found: Object) -> None:
        """One key, one job, also where another launcher asked for other resources: two would waste GPUs."""
        if notes(found).get(naming.DIGEST) == self._digest:
            return
        mine = self.kind.build(
            self._request, job=self.attempt(found), number=_number(found), image=self._image, environ={}
        )
        wanted = differences(mine["spec"], found["spec"])
        where = "; ".join(wanted) or "in its image or its servers"
        self._say(f"it was started with other resources than yours: {where}")

    def _create(self, number: int, tries: int) -> None:
        """Make the next job, unless somebody else does at the same moment."""
        job = self._request.begin(leased=True)
        body = self._body(job, number, tries)
        name = self._touched = body["metadata"]["name"]
        try:
            self._job = self.api.create(self.kind.resource, body)
            self._made = name
            self._say(f"started {self.kind.kind} {name}")
        except AlreadyExists:
            self._discard_if_not_made(name, job)
        except UserError:
            self._touched = ""
            self._request.store.delete(job.folder)
            raise
        self._touched = ""

    def _body(self, job: JobFile, number: int, tries: int) -> Object:
        body = self.kind.build(self._request, job=job, number=number, image=self._image, environ=os.environ)
        metadata, ours = body["metadata"], held(self.identity)
        metadata["labels"] = {**metadata["labels"], **self.identity.labels}
        metadata["annotations"] = {
            **metadata["annotations"],
            **ours["annotations"],
            naming.TRIES: str(tries),
        }
        metadata["ownerReferences"] = ours["ownerReferences"]
        return body

    def _discard_if_not_made(self, name: str, job: JobFile) -> None:
        """The name is taken: by another launcher, by ourselves (the answer was lost), or by a stranger."""
        try:
            found = self.api.get(self.kind.resource, name)
        except NotFound:
            found = None
        if found is not None and notes(found).get(naming.JOB) == job_uri(job):
            return
        self._request.store.delete(job.folder)
        if found is not None and notes(found).get(naming.KEY) != self._request.key:
            raise UserError(
                f"{self.kind.kind} {name}: is there and was not made for this key; delete it or choose"
                " another namespace"
            )

    def _leave(self, found: Object, why: str) -> None:
        def change(found: Object) -> tuple[Object, bool] | None:
            return leaving(found, {self.identity.holder}, kind=self.kind, why=why)

        write(self.api.fork(patience=_LEAVE_SECONDS), self.kind, found, change)


def _number(found: Any) -> int:
    return naming.number(found["metadata"]["labels"])
