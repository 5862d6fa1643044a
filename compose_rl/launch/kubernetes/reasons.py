"""Why a job failed: from its pods to one line, an exit code, and whether it may pass. Pure, by tables."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from compose_rl.errors import EXIT_BUG, EXIT_TRANSIENT, EXIT_USER
from compose_rl.launch.kubernetes import podview
from compose_rl.launch.kubernetes.refusals import one_line

__all__ = ["Cause", "cause", "from_log", "node_lost", "pod_cause", "terminated"]

Object = Mapping[str, Any]

_SAME_TIME_SECONDS = 3.0
"""Clocks of nodes differ, and Kubernetes counts in whole seconds."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why a pod ended without success."""

    pod: str
    uid: str
    """The pod's."""
    exit_code: int
    """Of :mod:`compose_rl.errors`; others where the program chose them."""
    reason: str
    """One line."""
    outside: bool = False
    """The cluster's doing, whatever the program said of it."""
    victim: bool = False
    """It was ended since another one had failed."""
    at: float = 0.0
    """Seconds since the epoch, by the node's clock."""

    @property
    def transient(self) -> bool:
        return self.exit_code == EXIT_TRANSIENT


@dataclass(frozen=True)
class _Row:
    exit_code: int
    text: str
    """May use ``{message}``, ``{limit}``."""
    victim: bool = False


_DISRUPTIONS = {
    "PreemptionByScheduler": "preempted by a pod of higher priority",
    "DeletionByTaintManager": "its node was lost or is being emptied (taint NoExecute)",
    "EvictionByEvictionAPI": "evicted, as when a node is drained",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "ended by its node: {message}",
}
"""Reason of the pod's condition DisruptionTarget -> what happened. All may pass."""

_POD_REASONS = {
    "Evicted": _Row(EXIT_TRANSIENT, "Evicted: {message}"),
    "NodeLost": _Row(EXIT_TRANSIENT, "its node was lost: {message}"),
    "NodeShutdown": _Row(EXIT_TRANSIENT, "its node is shutting down: {message}"),
    "Terminated": _Row(EXIT_TRANSIENT, "its node is shutting down: {message}"),
    "Shutdown": _Row(EXIT_TRANSIENT, "its node is shutting down: {message}"),
    "Preempting": _Row(EXIT_TRANSIENT, "preempted on its node: {message}"),
    "NodeAffinity": _Row(EXIT_TRANSIENT, "its node does not fit any more: {message}"),
    "UnexpectedAdmissionError": _Row(EXIT_TRANSIENT, "its node refused it: {message}"),
    "DeadlineExceeded": _Row(EXIT_USER, "ran longer than its deadline; raise deadline_minutes"),
}
"""The pod's own ``status.reason``."""
_NODE_IS_FULL = re.compile(r"^OutOf\w+$")
_OVER_A_LIMIT = re.compile(r"(exceeds|exceeded) (the|its) .*limit", re.IGNORECASE)
"""An eviction for what the pod itself used beyond its limits: it would happen again."""

_CONTAINER_REASONS = {
    "OOMKilled": _Row(
        EXIT_USER,
        "OOMKilled: used more memory than its limit{limit}; raise memory, or lower the batch,"
        " the token budget or the number of data workers",
    ),
    "ContainerStatusUnknown": _Row(EXIT_TRANSIENT, "its node lost sight of it: {message}"),
    "ContainerCannotRun": _Row(
        EXIT_USER, "the container could not start: {message}; check image and command"
    ),
    "StartError": _Row(EXIT_USER, "the container could not start: {message}; check image and command"),
}
_EXIT_CODES = {
    EXIT_USER: _Row(EXIT_USER, "{message}"),
    EXIT_TRANSIENT: _Row(EXIT_TRANSIENT, "{message}"),
    126: _Row(EXIT_USER, "exit code 126, the command cannot be executed; check the image"),
    127: _Row(EXIT_USER, "exit code 127, the command is not in the image; check the image"),
    134: _Row(EXIT_BUG, "exit code 134 (SIGABRT, an abort): {message}"),
    135: _Row(EXIT_BUG, "exit code 135 (SIGBUS; is /dev/shm too small? raise shm): {message}"),
    137: _Row(EXIT_BUG, "exit code 137 (SIGKILL, though not for its memory limit): {message}"),
    139: _Row(EXIT_BUG, "exit code 139 (SIGSEGV, a segmentation fault): {message}"),
    143: _Row(EXIT_TRANSIENT, "exit code 143 (SIGTERM: it was told to stop): {message}", victim=True),
}

_WHEN_ASKED = {EXIT_TRANSIENT, 137, 143}
"""How a trainer ends that is told to."""

_NO_MESSAGE = "Error on reading termination message"
"""What a node says in place of a message that it cannot read."""

_LOG_LINES = (
    (
        re.compile(r"Watchdog caught collective operation timeout|collective operation timeout", re.I),
        "NCCL time-out: a rank did not come to a collective operation",
    ),
    (re.compile(r"CUDA out of memory|torch\.OutOfMemoryError", re.I), "the GPU is out of memory"),
    (
        re.compile(r"unable to open shared memory|Bus error|insufficient shared memory", re.I),
        "/dev/shm is full",
    ),
    (re.compile(r"uncorrectable ECC|ECC error encountered|fallen off the bus", re.I), "a GPU is broken"),
    (re.compile(r"No space left on device"), "a disk is full"),
    (re.compile(r"NCCL (error|WARN)|ncclInternalError|ncclSystemError|ncclRemoteError"), "NCCL failed"),
)
"""What a program prints -> what it means; the first row that matches counts."""


def cause(pods: Iterable[Object], container: str) -> Cause | None:
    """What failed first, of the pods of a job as they were last seen; None where nothing did.

    Args:
        pods: of those that failed at the same time the first counts.
        container: the name of the trainer's container.
    """
    known = list(pods)
    found = [each for each in (pod_cause(pod, container) for pod in known) if each is not None]
    if not found:
        return None
    # A rank whose peer's node is lost fails with an error of the network, long before the node is given up.
    lost = next((pod for pod in known if node_lost(pod)), None)
    if lost is not None and not any(each.outside for each in found):
        node = podview.node(lost)
        return Cause(
            pod=podview.name(lost),
            uid=podview.uid(lost),
            exit_code=EXIT_TRANSIENT,
            reason=f"its node {node} does not answer",
            outside=True,
        )
    others = [each for each in found if not each.victim] or found
    first = min(each.at for each in others)
    together = [each for each in others if each.at - first <= _SAME_TIME_SECONDS]
    return min(together, key=lambda each: (not each.outside, each.exit_code == EXIT_BUG, each.at))


def pod_cause(pod: Object, container: str) -> Cause | None:
    """Why this pod failed or is being taken away; None for one that goes on or has succeeded."""
    if podview.status(pod).get("phase") == "Succeeded":
        return None
    for found in (_disrupted(pod), _refused(pod), _ended(pod, container), _deleted(pod)):
        if found is not None:
            return found
    return None


def node_lost(pod: Object) -> bool:
    """Whether its container runs as far as anybody knows, but its node has not answered for a while."""
    ready = podview.conditions(pod).get("Ready", {})
    statuses = podview.containers(pod)
    # The node says of each container that it is ready, the control plane says that the pod is not.
    return (
        podview.status(pod).get("phase") == "Running"
        and ready.get("status") == "False"
        and bool(statuses)
        and all(each.get("ready") and podview.state(each, "running") is not None for each in statuses)
    )


def terminated(pod: Object, container: str) -> Object | None:
    """The end of the trainer's container, or of an init container that failed."""
    for each in podview.init_containers(pod):
        found = podview.state(each, "terminated")
        if found is not None and found["exitCode"] != 0:
            return found
    ends = (
        podview.state(each, "terminated") for each in podview.containers(pod) if each["name"] == container
    )
    return next(ends, None)


def from_log(lines: Iterable[str]) -> str:
    """What the last lines of a log say of the reason, in a few words and the line itself; else empty."""
    known = list(lines)
    for pattern, meaning in _LOG_LINES:
        for line in known:
            if pattern.search(line):
                return f"{meaning}: {one_line(line)}"
    return ""


def _disrupted(pod: Object) -> Cause | None:
    condition = podview.conditions(pod).get("DisruptionTarget", {})
    if condition.get("status") != "True":
        return None
    text = _DISRUPTIONS.get(condition.get("reason", ""), "{message}")
    message = one_line(podview.status(pod).get("message") or condition.get("message", ""))
    return Cause(
        pod=podview.name(pod),
        uid=podview.uid(pod),
        exit_code=EXIT_TRANSIENT,
        reason=text.format(message=message),
        outside=True,
        at=podview.seconds(condition.get("lastTransitionTime")),
    )


def _refused(pod: Object) -> Cause | None:
    """The pod as a whole was ended by its node or its deadline."""
    status = podview.status(pod)
    reason, message = status.get("reason", ""), one_line(status.get("message", ""))
    if status.get("phase") != "Failed" and reason != "NodeLost":
        return None
    row = _POD_REASONS.get(reason)
    if reason == "Evicted" and _OVER_A_LIMIT.search(message):
        row = _Row(EXIT_USER, "Evicted: {message}; raise that limit (shm, or extra: ephemeral-storage)")
    if _NODE_IS_FULL.match(reason):
        row = _Row(EXIT_TRANSIENT, "its node had no place for it: {message}")
    if row is None:
        return None
    at = _latest_end(pod)
    return Cause(
        pod=podview.name(pod),
        uid=podview.uid(pod),
        exit_code=row.exit_code,
        reason=row.text.format(message=message),
        outside=True,
        at=at,
    )


def _ended(pod: Object, container: str) -> Cause | None:
    found = terminated(pod, container)
    if found is None or found["exitCode"] == 0:
        return None
    code, outside = int(found["exitCode"]), _CONTAINER_REASONS.get(found.get("reason", ""))
    row = outside or _EXIT_CODES.get(code) or _Row(EXIT_BUG, "exit code {code}: {message}")
    message = _message(found)
    text = row.text.format(message=message, limit=_limit(pod, container), code=code)
    # One that was taken away before it had started has no time of its end.
    never_ran = found.get("finishedAt") is None and "deletionTimestamp" in pod["metadata"]
    at = _asked_to_end(pod) if never_ran else podview.seconds(found.get("finishedAt"))
    return Cause(
        pod=podview.name(pod),
        uid=podview.uid(pod),
        exit_code=row.exit_code,
        reason=text.rstrip(": ") or f"exit code {code}",
        outside=outside is not None,
        victim=row.victim or never_ran or (outside is None and _was_asked(pod, code, at)),
        at=at,
    )


def _deleted(pod: Object) -> Cause | None:
    if "deletionTimestamp" not in pod["metadata"]:
        return None
    return Cause(
        pod=podview.name(pod),
        uid=podview.uid(pod),
        exit_code=EXIT_TRANSIENT,
        reason="the pod was deleted",
        victim=True,
        at=_asked_to_end(pod),
    )


def _was_asked(pod: Object, code: int, at: float) -> bool:
    """Whether it ended since it was told to. Times are whole seconds: a tie goes by how it ended."""
    asked = _asked_to_end(pod)
    return asked < at or (asked == at and code in _WHEN_ASKED)


def _asked_to_end(pod: Object) -> float:
    """When its deletion was asked for, in seconds since the epoch; never: infinity."""
    metadata = pod["metadata"]
    if "deletionTimestamp" not in metadata:
        return math.inf
    # Kubernetes writes down when the pod will be killed.
    return podview.seconds(metadata["deletionTimestamp"]) - (metadata.get("deletionGracePeriodSeconds") or 0)


def _message(end: Object) -> str:
    """The termination message; where there was none, Kubernetes puts the log's end in its place."""
    text = str(end.get("message") or "")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(_NO_MESSAGE)]
    if not lines:
        return ""
    return one_line(lines[0]) if len(lines) == 1 else from_log(lines) or one_line(lines[-1])


def _limit(pod: Object, container: str) -> str:
    specs: list[Object] = pod["spec"].get("containers") or []
    resources: list[Object] = [each.get("resources", {}) for each in specs if each["name"] == container]
    limits: list[Object] = [each.get("limits", {}) for each in resources]
    return f" of {limits[0]['memory']}" if limits and "memory" in limits[0] else ""


def _latest_end(pod: Object) -> float:
    ends = [podview.state(each, "terminated") for each in podview.containers(pod)]
    times = [podview.seconds(end.get("finishedAt")) for end in ends if end is not None]
    return max(times, default=podview.seconds(podview.status(pod).get("startTime")))
