"""The end of a run on a cluster: it leaves what it still holds, as after a launcher that was killed."""

from __future__ import annotations

from compose_rl.launch.kubernetes.api import Api
from compose_rl.launch.kubernetes.holders import holders, workflow_of
from compose_rl.launch.kubernetes.identity import Identity
from compose_rl.launch.kubernetes.orphans import leave, our_jobs
from compose_rl.store import Store

__all__ = ["leave_jobs"]


def leave_jobs(api: Api, store: Store, identity: Identity) -> list[str]:
    """Take all launchers of the run off its jobs; the names of those that are stopped by it.

    A job that another run waits for goes on.

    Args:
        identity: of one of the run's steps.

    Raises:
        UserError: not allowed.
        TransientError: no answer.
    """
    run = workflow_of(identity.holder)
    stopped: list[str] = []
    for job in our_jobs(api, store):
        mine = {holder for holder in holders(job.object) if workflow_of(holder) == run}
        if job.lives and mine and leave(api, job, mine, why="the run that waited for it has ended"):
            stopped.append(job.name)
    return stopped
