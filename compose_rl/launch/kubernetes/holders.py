"""Who holds a job, written on the job itself. Pure: from the object that was read to the patch to write.

Every patch carries the ``resourceVersion`` that was read, so holders, owner references and the switch that
suspends the job change together or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from compose_rl.launch.kubernetes import naming
from compose_rl.launch.kubernetes.identity import Identity
from compose_rl.launch.kubernetes.jobkind import JobKind
from compose_rl.launch.kubernetes.resource import Object

__all__ = [
    "given_up",
    "held",
    "holders",
    "is_left",
    "joined",
    "leaving",
    "notes",
    "stopping",
    "tries",
    "workflow_of",
]


def notes(found: Mapping[str, Any]) -> Mapping[str, str]:
    """A job's annotations."""
    return found["metadata"].get("annotations") or {}


def holders(found: Mapping[str, Any]) -> list[str]:
    """The ids of the launchers that hold a job, in the order in which they came."""
    return list(json.loads(notes(found).get(naming.HOLDERS, "[]")))


def tries(found: Mapping[str, Any]) -> int:
    """How many jobs in a row, this one the last, were started since the one before ended by what may pass."""
    return int(notes(found).get(naming.TRIES, "1"))


def is_left(found: Mapping[str, Any]) -> bool:
    """Whether the job was given up or is being removed: it is never joined."""
    return naming.LEFT in notes(found) or "deletionTimestamp" in found["metadata"]


def given_up(found: Mapping[str, Any]) -> tuple[int, str] | None:
    """The end, exit code and reason, of a job that was stopped since only a part of it had ended."""
    text = notes(found).get(naming.END)
    if text is None:
        return None
    end = json.loads(text)
    return int(end["exit_code"]), str(end["reason"])


def held(identity: Identity) -> Object:
    """What a new job's ``metadata`` says of its first holder."""
    owners = [] if identity.owner is None else [identity.owner]
    return {"annotations": {naming.HOLDERS: json.dumps([identity.holder])}, "ownerReferences": owners}


def joined(found: Mapping[str, Any], identity: Identity) -> Object | None:
    """A merge patch that adds a holder and its owner reference; None where both are there."""
    present, owners = holders(found), _owners(found)
    new = [*present] if identity.holder in present else [*present, identity.holder]
    new_owners = [*owners]
    if identity.owner is not None and identity.owner["uid"] not in {owner["uid"] for owner in owners}:
        new_owners.append(identity.owner)
    if (new, new_owners) == (present, owners):
        return None
    return _patch(found, {naming.HOLDERS: json.dumps(new)}, ownerReferences=new_owners)


def leaving(
    found: Mapping[str, Any], gone: set[str], *, kind: JobKind, why: str
) -> tuple[Object, bool] | None:
    """A merge patch that takes holders away.

    The last ones out suspend the job and mark it as left. They leave its owner references, so that the
    suspended object goes when their runs are removed.

    Args:
        gone: ids of holders.
        why: one line that stands on a job that is left by it.

    Returns:
        The patch, and whether the job is left by it; None where none of them holds the job.
    """
    present = holders(found)
    rest = [holder for holder in present if holder not in gone]
    if rest == present:
        return None
    if not rest:
        return _stop(found, {naming.HOLDERS: "[]", naming.LEFT: why}, kind), True
    lost = {workflow_of(holder) for holder in gone} - {workflow_of(holder) for holder in rest}
    owners = [owner for owner in _owners(found) if owner["uid"] not in lost]
    return _patch(found, {naming.HOLDERS: json.dumps(rest)}, ownerReferences=owners), False


def stopping(found: Mapping[str, Any], *, kind: JobKind, exit_code: int, reason: str) -> Object:
    """A merge patch that gives a job up for all its holders: a part of it has ended, the rest would hang."""
    end = json.dumps({"exit_code": exit_code, "reason": reason})
    return _stop(found, {naming.LEFT: reason, naming.END: end}, kind)


def _stop(found: Mapping[str, Any], changed: Mapping[str, str], kind: JobKind) -> Object:
    switch: Any = True
    for name in reversed(kind.suspend_path):
        switch = {name: switch}
    return _patch(found, changed) | {"spec": switch}


def _patch(found: Mapping[str, Any], changed: Mapping[str, str], **metadata: Any) -> Object:
    version = found["metadata"]["resourceVersion"]
    return {"metadata": {"resourceVersion": version, "annotations": dict(changed), **metadata}}


def _owners(found: Mapping[str, Any]) -> list[Object]:
    return list(found["metadata"].get("ownerReferences") or [])


def workflow_of(holder: str) -> str:
    """The uid of the Workflow that a holder belongs to; of one outside KFP no uid at all."""
    return holder.partition(".")[0]
