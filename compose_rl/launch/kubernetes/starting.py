"""The way of a job to its running: tells what it waits for, and ends what waits in vain or for too long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from compose_rl.config.resources import Resources
from compose_rl.errors import EXIT_TRANSIENT, EXIT_USER, TransientError, UserError
from compose_rl.launch.kubernetes import podview
from compose_rl.launch.kubernetes.api import Api, Object
from compose_rl.launch.kubernetes.jobend import End, JobEnd
from compose_rl.launch.kubernetes.jobkind import JobKind, State
from compose_rl.launch.kubernetes.reasons import node_lost
from compose_rl.launch.kubernetes.refusals import one_line
from compose_rl.launch.kubernetes.resource import EVENTS, WORKLOADS
from compose_rl.launch.kubernetes.waiting import Obstacle, Stage, pod_stage, pods_line, workload_line
from compose_rl.progress import duration

__all__ = ["Starting"]

_REPEAT_SECONDS = 300.0
"""How often a line about the same wait is repeated."""
_ASK_SECONDS = 30.0
"""How often the API is asked why something waits."""
_ORDINARY_SECONDS = 15.0
"""A wait that long is nothing to look into."""
_PATIENCE_SECONDS = 5.0
_WORKLOAD_OF = "kueue.x-k8s.io/job-uid"


class _Wait(NamedTuple):
    """Something that is waited for, as long as it is the same ``what`` of the same ``uid``."""

    what: str
    uid: str


class Starting:
    """Looked at again and again while a job has not ended."""

    def __init__(self, api: Api, kind: JobKind, resources: Resources, out: Callable[[str], None]) -> None:
        self._kind, self._resources, self._out = kind, resources, out
        self._remarks = _Remarks(api.fork(patience=_PATIENCE_SECONDS))
        self._since: dict[_Wait, float] = {}
        self._said: dict[str, float] = {}
        self._running: set[str] = set()

    def look(self, job: Object, pods: list[Object]) -> JobEnd | None:
        """Tell what is new; the end of a job that should wait no longer.

        Args:
            pods: those that are there now.
        """
        name, uid = podview.name(job), podview.uid(job)
        if self._kind.phase(job).state is State.QUEUED or self._kind.suspended(job):
            return self._without_pods(name, _Wait("queue", uid), f"queued: {self._queue_text(job)}")
        if not pods:
            return self._without_pods(name, _Wait("pods", uid), self._no_pods_text(uid))
        return self.look_at_pods(name, pods)

    def look_at_pods(self, name: str, pods: list[Object]) -> JobEnd | None:
        """The same of pods that are there.

        Args:
            name: of what they belong to.
        """
        for pod in filter(node_lost, pods):
            self._say(f"{name}: pod {podview.name(pod)}: its node {podview.node(pod)} does not answer", 0)
        found = [(pod, pod_stage(pod)) for pod in pods]
        waits = {
            _Wait(each.stage, podview.uid(pod)): (pod, each)
            for pod, each in found
            if each.stage is not Stage.RUN
        }
        waits |= {_Wait("in vain", podview.uid(pod)): (pod, each) for pod, each in found if each.remedy}
        self._count(waits)
        end = next((end for end in (self._given_up(*item) for item in waits.items()) if end), None)
        if end is None:
            self._tell(name, found)
        return end

    def _without_pods(self, name: str, wait: _Wait, text: str) -> JobEnd | None:
        self._count([wait])
        waited = self._waited(wait)
        if waited > 60 * self._resources.queue_minutes:
            return _no_place(f"{name}: {text}", waited)
        if wait.what == "queue" or waited > _ORDINARY_SECONDS:
            self._say(f"{name}: {text}", waited)
        return None

    def _given_up(self, wait: _Wait, item: tuple[Object, Obstacle]) -> JobEnd | None:
        pod, obstacle = item
        waited, name = self._waited(wait), podview.name(pod)
        if wait.what == "in vain":
            if waited >= obstacle.grace_seconds:
                reason = f"pod {name}: {obstacle.text}; {obstacle.remedy}"
                code = obstacle.exit_code
                return JobEnd(end=End.FAILED, over=False, exit_code=code, reason=reason, pod=name)
            return None
        if wait.what == Stage.PLACE and waited > 60 * self._resources.queue_minutes:
            return _no_place(f"pod {name}: {obstacle.text}", waited)
        if wait.what == Stage.START and waited > 60 * self._resources.start_minutes:
            text = f"pod {name} did not start in {duration(waited)} (start_minutes)"
            reason = f"{text}: {self._start_text(pod, obstacle)}"
            return JobEnd(end=End.FAILED, over=False, exit_code=EXIT_TRANSIENT, reason=reason, pod=name)
        return None

    def _tell(self, name: str, found: list[tuple[Object, Obstacle]]) -> None:
        if all(each.stage is Stage.RUN for _, each in found):
            uids = {podview.uid(pod) for pod, _ in found}
            if not uids <= self._running:
                self._running = uids
                nodes = sorted({podview.node(pod) for pod, _ in found})
                self._out(f"{name}: {len(found)} {_pods(len(found))} running on {', '.join(nodes)}")
            return
        explained = [
            Obstacle(each.stage, self._start_text(pod, each)) if each.stage is Stage.START else each
            for pod, each in found
        ]
        self._say(f"{name}: {pods_line(explained)}", max(map(self._waited, self._since), default=0))

    def _start_text(self, pod: Object, obstacle: Obstacle) -> str:
        """What is known of a pod that starts: a volume that is not there shows in its events alone."""
        if obstacle.stage is not Stage.START or not obstacle.ordinary:
            return obstacle.text
        if self._waited(_Wait(Stage.START, podview.uid(pod))) < _ORDINARY_SECONDS:
            return obstacle.text
        return self._remarks.warning(podview.uid(pod)) or obstacle.text

    def _queue_text(self, job: Object) -> str:
        held = self._remarks.workload(podview.uid(job))
        return held or one_line(self._kind.phase(job).message) or "suspended"

    def _no_pods_text(self, uid: str) -> str:
        if self._waited(_Wait("pods", uid)) < _ORDINARY_SECONDS:
            return "no pod yet"
        known = self._remarks.warning(uid)
        return f"no pod yet: {known or f'is {self._kind.resource.comes_with} running?'}"

    def _count(self, waits: Iterable[_Wait]) -> None:
        now = time.monotonic()
        self._since = {wait: self._since.get(wait, now) for wait in waits}

    def _waited(self, wait: _Wait) -> float:
        now = time.monotonic()
        return now - self._since.get(wait, now)

    def _say(self, text: str, waited: float) -> None:
        now = time.monotonic()
        if now - self._said.get(text, -_REPEAT_SECONDS) >= _REPEAT_SECONDS:
            self._said[text] = now
            self._out(text if waited < 60 else f"{text} (for {duration(waited)})")


class _Remarks:
    """What the API knows about a wait: asked rarely, and no more where it refuses."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._known: dict[str, tuple[float, str]] = {}
        self._refused: set[str] = set()

    def warning(self, uid: str) -> str:
        """The newest warning about an object."""

        def ask() -> str:
            found, _ = self._api.list(EVENTS, fields=f"involvedObject.uid={uid},type=Warning")
            if not found:
                return ""
            newest = max(found, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
            return one_line(f"{newest.get('reason', '')}: {newest.get('message', '')}")

        return self._remark("events", uid, ask)

    def workload(self, uid: str) -> str:
        """Why Kueue holds a job back."""

        def ask() -> str:
            found, _ = self._api.list(WORKLOADS, f"{_WORKLOAD_OF}={uid}")
            return workload_line(found[0]) if found else ""

        return self._remark("workloads", uid, ask)

    def _remark(self, what: str, uid: str, ask: Callable[[], str]) -> str:
        at, text = self._known.get(what + uid, (-_ASK_SECONDS, ""))
        now = time.monotonic()
        if what in self._refused or now - at < _ASK_SECONDS:
            return text
        try:
            text = ask()
        except UserError:  # not allowed, or no Kueue here
            self._refused.add(what)
        except TransientError:
            pass
        self._known[what + uid] = (now, text)
        return text


def _no_place(why: str, waited: float) -> JobEnd:
    """A limit that the user set; another job would only wait again."""
    reason = f"{why}; waited {duration(waited)} for a place (queue_minutes): ask for less, or run again later"
    return JobEnd(end=End.FAILED, over=False, exit_code=EXIT_USER, reason=reason)


def _pods(number: int) -> str:
    return "pod" if number == 1 else "pods"
