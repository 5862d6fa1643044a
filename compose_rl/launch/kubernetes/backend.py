"""Backends ``pytorchjob`` and ``trainjob``: one job per key on a cluster, shared by all who want its result.

It is created or joined, followed, tried again, and left.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from compose_rl.errors import EXIT_TRANSIENT
from compose_rl.launch.attempts import recorded_failure
from compose_rl.launch.backend import Ended, JobRequest
from compose_rl.launch.kubernetes import naming
from compose_rl.launch.kubernetes.capacity import check
from compose_rl.launch.kubernetes.follow import End, follow
from compose_rl.launch.kubernetes.hold import Hold, Place
from compose_rl.launch.kubernetes.holders import given_up, notes, tries
from compose_rl.launch.kubernetes.resource import Object
from compose_rl.launch.kubernetes.signals import Stopped, signals_raised
from compose_rl.progress import Progress, duration
from compose_rl.store.leases import Leases, kept

__all__ = ["ClusterBackend"]

_PAUSE_SECONDS = 10.0
"""Before the second try; twice as long before each further one."""
_LONGEST_PAUSE_SECONDS = 300.0


class ClusterBackend:
    """Starts the job of a key, or takes part in the one that is there, and leaves nothing running behind.

    Args:
        pause_seconds: before a job that ended by what may pass is tried again.
    """

    def __init__(self, place: Place, *, pause_seconds: float = _PAUSE_SECONDS) -> None:
        self._place = place
        self._pause_seconds = pause_seconds

    def run(self, request: JobRequest) -> Ended:
        """See :class:`compose_rl.launch.backend.Backend`.

        SIGTERM, SIGINT and any exception take this launcher away from the job, and the job off the cluster
        if nobody else holds it.
        """
        say = Progress(request.spec.name).say
        hold = Hold(self._place, request, say)
        leases = Leases(request.store, request.key)
        minutes = request.resources.lease_minutes
        with signals_raised() as signals:
            check(self._place.api, request)
            with kept(leases, self._place.identity.holder, lease_minutes=minutes, say=say):
                try:
                    return self._run(hold, request, say)
                except BaseException as error:
                    signals.end()  # another one must not interrupt the one call that there may be time for
                    hold.leave(_why(error))
                    raise

    def _run(self, hold: Hold, request: JobRequest, say: Callable[[str], None]) -> Ended:
        number, after = 1, ""
        while True:
            job = hold.take(tries=number, after=after)
            if job is None:  # published meanwhile
                return Ended(job=request.job_file(), exit_code=0)
            ended = self._follow(hold, job, request)
            if ended.exit_code != EXIT_TRANSIENT:
                return ended
            number, after = tries(job) + 1, job["metadata"]["name"]
            if number > request.resources.tries:
                return ended
            pause = min(self._pause_seconds * 2 ** (number - 2), _LONGEST_PAUSE_SECONDS)
            say(f"{ended.reason}; try {number} of {request.resources.tries} in {duration(pause)}")
            time.sleep(pause)

    def _follow(self, hold: Hold, job: Object, request: JobRequest) -> Ended:
        end = follow(
            self._place.api,
            self._place.kind,
            job["metadata"]["name"],
            resources=request.resources,
            out=_show,
            seen=hold.seen,
            adopted=hold.adopted,
            servers=notes(job).get(naming.SERVERS),
        )
        if end.over and end.end is not End.DELETED:
            hold.ended()
        attempt = hold.attempt(job)
        exit_code, reason = end.exit_code, end.reason
        if end.end is End.LEFT:
            exit_code, reason = given_up(end.job) or (exit_code, reason)
        elif end.end is End.FAILED and end.over and not end.pod and not end.outside:
            said = recorded_failure(request.store, attempt)  # no pod is left that could tell
            exit_code, reason = (exit_code, reason) if said is None else (said.exit_code, said.message)
        elif not end.over and end.pod:
            hold.stop(exit_code, reason)  # its other pods hang, whoever waits for them
        elif not end.over:
            hold.leave(reason)  # it has not started, and others may wait longer
        return Ended(job=attempt, exit_code=exit_code, reason=reason)


def _show(line: str) -> None:
    """A line of the job's output; stdout is the command's own."""
    print(line, file=sys.stderr, flush=True)


def _why(error: BaseException) -> str:
    """What stands on a job that is left, in a line."""
    if isinstance(error, Stopped):
        return f"its last launcher got {error.number.name}"
    return f"its last launcher ended: {type(error).__name__}"
