"""Writing what holders change on a job, whoever else changes it at the same moment."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from compose_rl.errors import TransientError, UserError
from compose_rl.launch.kubernetes import naming
from compose_rl.launch.kubernetes.api import Api, Conflict
from compose_rl.launch.kubernetes.holders import is_left, notes
from compose_rl.launch.kubernetes.jobkind import JobKind
from compose_rl.launch.kubernetes.resource import JOBS, Object

__all__ = ["switch_servers", "write"]


def write(
    api: Api, kind: JobKind, found: Object, change: Callable[[Object], tuple[Object, bool] | None]
) -> bool:
    """Change a job that lives: read again and thought over anew for as long as others are faster.

    Args:
        found: the job as it was last read.
        change: from the job to the merge patch and whether that stops the job; None: nothing to do.

    Returns:
        Whether the job was stopped by this.

    Raises:
        NotFound: the job is gone.
    """
    name = found["metadata"]["name"]
    while not is_left(found) and not kind.phase(found).ended:
        wanted = change(found)
        if wanted is None:
            return False
        patch, stops = wanted
        try:
            found = api.patch(kind.resource, name, patch)
        except Conflict:
            found = api.get(kind.resource, name)
            continue
        if stops:
            switch_servers(api, found, suspend=True)
        if stops and naming.QUEUE_LABEL in (found["metadata"].get("labels") or {}):
            # The queue would start a job again that it has let in; being left, nobody joins it meanwhile.
            api.delete(kind.resource, name, uid=found["metadata"]["uid"])
        return stops
    return False


def switch_servers(api: Api, found: Object, *, suspend: bool) -> None:
    """Take the pods of a job's servers away, or let them come; what cannot be reached, their leases end."""
    name = notes(found).get(naming.SERVERS)
    if name is not None:
        with contextlib.suppress(UserError, TransientError):
            api.patch(JOBS, name, {"spec": {"suspend": suspend}})
