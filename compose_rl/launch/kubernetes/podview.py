"""Reading the status of a pod, of which any part may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

__all__ = [
    "as_first_asked",
    "conditions",
    "containers",
    "init_containers",
    "name",
    "node",
    "seconds",
    "state",
    "status",
    "uid",
]

Object = Mapping[str, Any]


def name(found: Object) -> str:
    return str(found["metadata"]["name"])


def uid(found: Object) -> str:
    return str(found["metadata"]["uid"])


def node(pod: Object) -> str:
    """Empty before it has one."""
    return str(pod["spec"].get("nodeName") or "")


def status(pod: Object) -> Object:
    found: Object | None = pod.get("status")
    return found or {}


def conditions(found: Object) -> dict[str, Object]:
    """All conditions of an object by type, true or not."""
    listed: list[Object] = status(found).get("conditions") or []
    return {each["type"]: each for each in listed}


def containers(pod: Object) -> list[Object]:
    """The statuses of its containers."""
    return list(status(pod).get("containerStatuses") or [])


def init_containers(pod: Object) -> list[Object]:
    return list(status(pod).get("initContainerStatuses") or [])


def state(container: Object, which: str) -> Object | None:
    """Its state ``waiting``, ``running`` or ``terminated``, if that is the one it is in."""
    states: Object = container.get("state") or {}
    return states.get(which)


def as_first_asked(pod: Object, before: Object | None) -> dict[str, Any]:
    """The pod with the time at which its end was first asked for.

    A node that has ended a pod asks again, to have it removed, and that time stands in the first one's place.

    Args:
        before: the same pod as it was seen earlier.
    """
    asked: Object = before["metadata"] if before is not None else {}
    if "deletionTimestamp" not in asked:
        return dict(pod)
    kept = {name: asked.get(name) for name in ("deletionTimestamp", "deletionGracePeriodSeconds")}
    return {**pod, "metadata": {**pod["metadata"], **kept}}


def seconds(time: str | None) -> float:
    """A time as Kubernetes writes it, in seconds since the epoch; now where there is none."""
    if not time:
        return datetime.now(UTC).timestamp()
    return datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()
