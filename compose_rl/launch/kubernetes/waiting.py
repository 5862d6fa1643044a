"""What keeps a job from running: a queue, no place on a node, a pod that does not start. Pure, by tables."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from compose_rl.errors import EXIT_TRANSIENT, EXIT_USER
from compose_rl.launch.kubernetes import podview
from compose_rl.launch.kubernetes.refusals import one_line

__all__ = ["Obstacle", "Stage", "pod_stage", "pods_line", "workload_line"]

Object = Mapping[str, Any]


class Stage(StrEnum):
    """How far a pod has come."""

    PLACE = "waiting for a place"
    START = "starting"
    RUN = "running"


@dataclass(frozen=True)
class Obstacle:
    """A pod and what it waits for."""

    stage: Stage
    text: str = ""
    """What Kubernetes says, in one line."""
    remedy: str = ""
    """Not empty: it will not pass by itself."""
    grace_seconds: float = 0
    """How long to see whether it does nevertheless."""
    exit_code: int = 0
    """With which to end then."""

    @property
    def ordinary(self) -> bool:
        """As with every pod that starts."""
        return self.text in _ORDINARY.values()


class _Hurdle(NamedTuple):
    in_vain: str
    """Pattern of the messages with which it will not pass."""
    remedy: str
    grace_seconds: float = 0
    exit_code: int = EXIT_USER


_IMAGE = "check the image's name, and image_pull_secrets where the registry asks who is there"
_CONFIG = "create what is missing in the job's namespace, or mend resources (secrets, run_as_user)"
_PULL = (
    _Hurdle(r"(?i)not found|unauthorized|denied|forbidden|manifest unknown|no match", _IMAGE, 20),
    _Hurdle("", _IMAGE, 90, EXIT_TRANSIENT),  # the registry may come back
)
_HURDLES: dict[str, tuple[_Hurdle, ...]] = {
    "InvalidImageName": (_Hurdle("", "mend the image's name"),),
    "ErrImageNeverPull": (_Hurdle("", "load the image onto the nodes, or change image_pull_policy"),),
    "ErrImagePull": _PULL,
    "ImagePullBackOff": _PULL,
    "CreateContainerConfigError": (
        _Hurdle(r'secret "crl-\S+-rollout\S*" not found', _CONFIG, 60),  # made right after the job
        _Hurdle("not found|couldn't find key|non-root", _CONFIG),
    ),
    "CreateContainerError": (_Hurdle("no such file|not found|no command", "check the image"),),
}
"""Why a container waits -> when it waits in vain: the first whose pattern is in the message."""
_PULL_AGAIN = re.compile(r"^Back-off pulling image .*?(?:: ErrImagePull: (?P<why>.*))?$")
_PLACED = "on its node"
_ORDINARY = {
    "": _PLACED,
    "ContainerCreating": "pulling the image, mounting volumes",
    "PodInitializing": "initializing",
}


def pod_stage(pod: Object) -> Obstacle:
    """How far a pod has come, and what it waits for."""
    scheduled = podview.conditions(pod).get("PodScheduled", {})
    if scheduled.get("status") != "True" and not podview.node(pod):
        return Obstacle(Stage.PLACE, one_line(scheduled.get("message", "")) or "no node is chosen yet")
    if podview.status(pod).get("phase") in ("Succeeded", "Failed"):
        return Obstacle(Stage.RUN)
    statuses = [*podview.init_containers(pod), *podview.containers(pod)]
    found = [_container(podview.state(each, "waiting")) for each in statuses]
    waiting = [each for each in found if each is not None]
    if not statuses:
        return Obstacle(Stage.START, _PLACED)
    if not waiting:
        return Obstacle(Stage.RUN)
    # What stands in the way may be in any container; the others only wait for it.
    return max(waiting, key=lambda each: (bool(each.remedy), not each.ordinary))


def _container(waiting: Object | None) -> Obstacle | None:
    if waiting is None:
        return None
    reason, message = waiting.get("reason", ""), one_line(waiting.get("message", ""))
    if reason in _ORDINARY:
        return Obstacle(Stage.START, _ORDINARY[reason])
    again = _PULL_AGAIN.match(message)
    if again is not None and again["why"]:  # the same trouble as before, and the same line
        reason, message = "ErrImagePull", again["why"]
    text = f"{reason}: {message}".rstrip(": ")
    for hurdle in _HURDLES.get(reason, ()):
        if re.search(hurdle.in_vain, message):
            return Obstacle(Stage.START, text, hurdle.remedy, hurdle.grace_seconds, hurdle.exit_code)
    return Obstacle(Stage.START, text)


def pods_line(obstacles: Iterable[Obstacle]) -> str:
    """One line for all pods of a job: the earliest stage that any of them is in, and what most wait for."""
    every = list(obstacles)
    for stage in Stage:
        these = [each for each in every if each.stage is stage]
        if these:
            text, _ = Counter(each.text for each in these).most_common(1)[0]
            return f"{len(these)} of {len(every)} pods {stage}" + (f": {text}" if text else "")
    return ""


def workload_line(workload: Object) -> str:
    """Why a queue (Kueue) holds a job back."""
    conditions = podview.conditions(workload)
    for name in ("Evicted", "QuotaReserved", "Admitted"):
        found = conditions.get(name)
        if found is not None and (found["status"] == "True") == (name == "Evicted"):
            return one_line(found.get("message", ""))
    return ""
