"""From a job to its end: what it waits for, what it prints, why it failed."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import replace

from compose_rl.config.resources import Resources
from compose_rl.errors import EXIT_BUG, EXIT_TRANSIENT, EXIT_USER
from compose_rl.launch.kubernetes import holders, naming, podview, reasons
from compose_rl.launch.kubernetes.api import Api, Object
from compose_rl.launch.kubernetes.jobend import End, JobEnd
from compose_rl.launch.kubernetes.jobkind import JobKind, State
from compose_rl.launch.kubernetes.output import Output
from compose_rl.launch.kubernetes.resource import PODS
from compose_rl.launch.kubernetes.serverwatch import ServerWatch
from compose_rl.launch.kubernetes.starting import Starting
from compose_rl.launch.kubernetes.watching import News, Selection, Snapshot, start_watching

__all__ = ["End", "JobEnd", "follow"]

_TICK_SECONDS = 1.0
_SETTLE_SECONDS = 10.0
"""From a pod's failure: how long the operator has for ending the job, and other pods for saying why."""
_GLANCE_SECONDS = 2.0
"""The same, once the operator has ended it."""
_ADOPTED_LINES = 20


def follow(
    api: Api,
    kind: JobKind,
    name: str,
    *,
    resources: Resources,
    out: Callable[[str], None],
    seen: Callable[[Object], None] | None = None,
    adopted: bool = False,
    servers: str | None = None,
) -> JobEnd:
    """Follow a job to its end.

    Args:
        resources: its limits: ``queue_minutes``, ``start_minutes``, ``grace_minutes``.
        out: takes lines: rank 0's output and what the job waits for.
        seen: is given the job whenever it has changed.
        adopted: it has run before; only the end of what it printed is shown.
        servers: the name of the Job of its rollout servers.

    Raises:
        UserError: the API refuses to show the job or its pods.
        TransientError: the API server did not answer for a long time.
    """
    session = api.fork()
    news: News = queue.SimpleQueue()
    selector = ",".join(f"{key}={value}" for key, value in kind.pod_labels(name).items())
    job = Selection(kind.resource, fields=f"metadata.name={name}")
    follower = _Follower(session, kind, name, resources, out, adopted)
    beside = servers and ServerWatch(servers, Starting(session, kind, resources, out), out)
    try:
        start_watching(session, job, "job", news)
        start_watching(session, Selection(PODS, labels=selector), "pods", news)
        if beside:
            start_watching(session, Selection(PODS, labels=beside.labels), "servers", news)
        while True:
            for tag, found in _arrived(news):
                if isinstance(found, Exception):
                    raise found
                if tag == "pods":
                    follower.pods_seen(found)
                elif tag == "servers" and beside:
                    beside.pods_seen(found)
                elif follower.job_seen(found.get(name)) and seen is not None:
                    seen(follower.job)
            end = follower.look() or (beside.look() if beside and follower.runs else None)
            if end is not None:
                return replace(end, job=follower.job)
    finally:
        session.close()


def _arrived(news: News) -> list[tuple[str, Snapshot | Exception]]:
    """What has come, waiting a moment for something to come."""
    found: list[tuple[str, Snapshot | Exception]] = []
    try:
        found.append(news.get(timeout=_TICK_SECONDS))
        while True:
            found.append(news.get_nowait())
    except queue.Empty:
        return found


class _Follower:
    """What is known of a job, and what follows from it."""

    def __init__(
        self,
        api: Api,
        kind: JobKind,
        name: str,
        resources: Resources,
        out: Callable[[str], None],
        adopted: bool,
    ) -> None:
        self.job: Object = {}
        self._kind, self._name, self._resources, self._out = kind, name, resources, out
        self._gone = False
        self._pods: dict[str, Object] = {}
        """By uid; also those that are no more, as they were last seen."""
        self._dismissed: set[str] = set()
        """Pods that a queue took away; no failure."""
        self._failing: dict[str, None] = {}
        """In the order in which they were seen to."""
        self._failed_since: float | None = None
        self._starting = Starting(api, kind, resources, out)
        self._output = Output(api, kind, out, tail_lines=_ADOPTED_LINES if adopted else None)

    def job_seen(self, found: Object | None) -> bool:
        """Whether it is there."""
        if found is None or "deletionTimestamp" in found["metadata"]:
            self._gone = True
        elif self.job and podview.uid(found) != podview.uid(self.job):
            self._gone = True  # another one has its name
        else:
            self.job = found
        return not self._gone

    def pods_seen(self, snapshot: Snapshot) -> None:
        found = {podview.uid(pod): pod for pod in snapshot.values()}
        for uid, pod in self._pods.items():
            if uid not in found:
                # An operator may put another in its place, of which the other ranks know nothing.
                pod["metadata"].setdefault("deletionTimestamp", _now())
                if podview.status(pod).get("phase") != "Succeeded":
                    pod["status"] = {**podview.status(pod), "phase": "Failed"}
        for uid, pod in found.items():
            if uid not in self._dismissed:
                self._pods[uid] = podview.as_first_asked(pod, self._pods.get(uid))
        for pod in found.values():
            self._output.pod_seen(pod)
        container = self._kind.container
        for uid, pod in self._pods.items():
            if reasons.pod_cause(pod, container) is not None:
                self._failing.setdefault(uid)

    @property
    def runs(self) -> bool:
        """It is meant to have pods, and none of them has failed."""
        return bool(self.job) and self._failed_since is None and not self._kind.suspended(self.job)

    def look(self) -> JobEnd | None:
        """The job's end, once it has come."""
        if self._gone:
            text = "was deleted by somebody else; run again to go on from its checkpoints"
            return JobEnd(end=End.DELETED, exit_code=EXIT_BUG, reason=f"{self._name}: {text}")
        if not self.job:
            return None
        phase = self._kind.phase(self.job)
        if phase.state is State.SUCCEEDED:
            self._output.finish(over=True)
            return JobEnd(end=End.SUCCEEDED)
        failed = phase.state is State.FAILED
        left = holders.notes(self.job).get(naming.LEFT)
        if left is not None and not failed:
            return JobEnd(end=End.LEFT, exit_code=EXIT_TRANSIENT, reason=f"{self._name}: {left}")
        if not failed and self._kind.suspended(self.job):
            self._dismissed |= set(self._pods)
            self._pods = {}
        cause = reasons.cause(self._in_order(), self._kind.container)
        if failed or cause is not None:
            return self._failed(cause, over=failed) if self._settled(cause, over=failed) else None
        self._failed_since = None
        return self._starting.look(self.job, list(self._pods.values()))

    def _in_order(self) -> list[Object]:
        """Those that failed first, first: times are whole seconds, but changes come one by one."""
        others = (uid for uid in self._pods if uid not in self._failing)
        return [self._pods[uid] for uid in (*self._failing, *others) if uid in self._pods]

    def _settled(self, cause: reasons.Cause | None, *, over: bool) -> bool:
        """Whether nothing more is to be learned, or to be saved by pods that were asked to leave."""
        now = time.monotonic()
        if self._failed_since is None:
            self._failed_since = now
        limit = _SETTLE_SECONDS
        if over and cause is not None and not cause.victim:
            limit = _GLANCE_SECONDS
        elif not over and any(self._is_leaving(pod) for pod in self._pods.values()):
            limit += 60 * self._resources.grace_minutes
        return now - self._failed_since > limit

    def _is_leaving(self, pod: Object) -> bool:
        """Asked to end, and may be saving its state."""
        container = self._kind.container
        ended = podview.status(pod).get("phase") in ("Succeeded", "Failed")
        return (
            not ended
            and podview.node(pod) != ""
            and reasons.terminated(pod, container) is None
            and reasons.pod_cause(pod, container) is not None
            and not reasons.node_lost(pod)
        )

    def _failed(self, cause: reasons.Cause | None, *, over: bool) -> JobEnd:
        phase = self._kind.phase(self.job)
        self._output.finish(over=over)
        blameless = cause is None or cause.victim
        late = "deadline" in f"{phase.reason} {phase.message}".lower()
        if over and late and blameless:
            text = "ran longer than its deadline; raise deadline_minutes"
            return JobEnd(end=End.FAILED, exit_code=EXIT_USER, reason=f"{self._name}: {text}", outside=True)
        if self._dismissed and blameless:  # released so soon that the operator met the pods of before
            text = "its operator took pods that its queue had taken away for failed ones"
            return JobEnd(end=End.FAILED, over=over, exit_code=EXIT_TRANSIENT, reason=f"{self._name}: {text}")
        if cause is None:
            text = phase.message or phase.reason or "failed"
            return JobEnd(end=End.FAILED, over=over, exit_code=EXIT_BUG, reason=f"{self._name}: {text}")
        said = reasons.from_log(self._output.last_lines(cause.uid))
        printed = "" if cause.outside or said in cause.reason else f" ({said})"
        return JobEnd(
            end=End.FAILED,
            over=over,
            exit_code=cause.exit_code,
            reason=f"pod {cause.pod}: {cause.reason}{printed}",
            outside=cause.outside,
            pod=cause.pod,
        )


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
