"""What ``compose-rl gc`` does, in one pass over the jobs of a namespace and over a storage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from compose_rl.launch.garbage import garbage, lease_tags, still_garbage
from compose_rl.launch.kubernetes.api import Api
from compose_rl.launch.kubernetes.orphans import OurJob, leave, our_jobs, remove, running_workflows, suspects
from compose_rl.progress import duration
from compose_rl.stages.attempt import JOB_NAME, JobFile
from compose_rl.store import NotFound, Store

__all__ = ["Gone", "Sweep"]

_JOBS_LEFT, _JOBS, _LEASES, _ATTEMPTS = "jobs left", "jobs removed", "leases removed", "attempts removed"


@dataclass(frozen=True)
class Gone:
    """Something that went, or would go in a dry run."""

    verb: str
    what: str
    size: int = 0
    """Bytes that it took in the storage."""


class Sweep:
    """One pass.

    Args:
        api: None: there are no jobs to look at.
        older_than: seconds; what changed since stays.
        dry_run: change nothing.
    """

    def __init__(self, store: Store, api: Api | None, *, older_than: float, dry_run: bool) -> None:
        self.counts: dict[str, int] = dict.fromkeys((_JOBS_LEFT, _JOBS, _LEASES, _ATTEMPTS), 0)
        self._store, self._api = store, api
        self._older_than, self._dry_run = older_than, dry_run

    def run(self, wait: float) -> Iterator[Gone]:
        """Do it, telling of each thing.

        Args:
            wait: seconds for which leases are watched, at least; longer where a job's own run out later.
        """
        jobs = [] if self._api is None else our_jobs(self._api, self._store)
        running: set[str] = set() if self._api is None else running_workflows(self._api)
        doubtful = {job.name: suspects(job, running) for job in jobs if job.lives}
        before = lease_tags(self._store)
        self._watch([job for job in jobs if doubtful.get(job.name)], wait if before else 0)
        renewed = {path for path, tag in lease_tags(self._store).items() if before.get(path) != tag}
        alive: list[OurJob] = []
        held: set[str] = set()
        for job in jobs:
            gone = {each for each in doubtful.get(job.name, set()) if job.leases[each] not in renewed}
            if job.lives and gone and gone == job.leases.keys():
                yield from self._leave(job, gone)
            elif job.lives:
                alive.append(job)
                held |= {path for holder, path in job.leases.items() if holder not in gone}
                self._take_off(job, gone)
            elif job.idle_seconds > self._older_than:
                yield from self._remove(job)
        yield from self._leases(before.keys() - renewed - held)
        yield from self._attempts(alive, {path.split("/")[1] for path in renewed})

    def _watch(self, doubtful: list[OurJob], wait: float) -> None:
        """Until every launcher that lives has had the time to renew its lease."""
        for job in doubtful:
            wait = max(wait, 60 * self._lease_minutes(job))
        time.sleep(wait)

    def _lease_minutes(self, job: OurJob) -> float:
        try:
            file = JobFile.model_validate_json(self._store.read(f"{job.attempt}/{JOB_NAME}"))
        except NotFound:
            return 0
        return file.lease_minutes or 0

    def _leave(self, job: OurJob, gone: set[str]) -> Iterator[Gone]:
        yield self._gone(_JOBS_LEFT, f"{job.name}: its launchers are gone ({', '.join(sorted(gone))})")
        self._take_off(job, gone)

    def _take_off(self, job: OurJob, gone: set[str]) -> None:
        if gone and self._api is not None and not self._dry_run:
            leave(self._api, job, gone, why="gc: nobody waits for it")

    def _remove(self, job: OurJob) -> Iterator[Gone]:
        yield self._gone(_JOBS, f"{job.name}: ended or left {duration(job.idle_seconds)} ago")
        if self._api is not None and not self._dry_run:
            remove(self._api, job)

    def _leases(self, stale: set[str]) -> Iterator[Gone]:
        for path in sorted(stale):
            yield self._gone(_LEASES, f"{path}: not renewed, and no job is held by it")
            if not self._dry_run:
                self._store.delete(path)

    def _attempts(self, alive: list[OurJob], held: set[str]) -> Iterator[Gone]:
        live = {job.attempt for job in alive}
        found = list(garbage(self._store, older_than=self._older_than, live=live, held=held))
        for attempt in found:
            if still_garbage(self._store, attempt, found):
                why = "another attempt gave the result" if attempt.beside_result else "came to no result"
                yield self._gone(_ATTEMPTS, f"{attempt.folder}: {why}", attempt.size)
                if not self._dry_run:
                    self._store.delete(attempt.folder)

    def _gone(self, what: str, text: str, size: int = 0) -> Gone:
        self.counts[what] += 1
        return Gone(what.split()[-1], text, size)
