"""The pods of a job's rollout servers: what they wait for, which was lost and why, and when it is in vain."""

from __future__ import annotations

from collections.abc import Callable

from compose_rl.errors import EXIT_USER
from compose_rl.launch.kubernetes import podview
from compose_rl.launch.kubernetes.api import Object
from compose_rl.launch.kubernetes.jobend import End, JobEnd
from compose_rl.launch.kubernetes.reasons import Cause, pod_cause
from compose_rl.launch.kubernetes.servers import CONTAINER
from compose_rl.launch.kubernetes.starting import Starting
from compose_rl.launch.kubernetes.watching import Snapshot

__all__ = ["ServerWatch"]


class ServerWatch:
    """Told of every change; says what a launcher's log should have of it.

    Args:
        name: of the Job.
        starting: tells what pods wait for.
        out: takes lines.
    """

    def __init__(self, name: str, starting: Starting, out: Callable[[str], None]) -> None:
        self.labels = f"batch.kubernetes.io/job-name={name}"
        self._name, self._starting, self._out = name, starting, out
        self._pods: list[Object] = []
        self._told: set[str] = set()
        """Pods of which was said that they are lost, by uid."""

    def pods_seen(self, snapshot: Snapshot) -> None:
        self._pods = list(snapshot.values())

    def look(self) -> JobEnd | None:
        """Tell what is new; the end of a job whose servers can never run."""
        for pod in self._pods:
            cause = pod_cause(pod, CONTAINER)
            if cause is None or podview.uid(pod) in self._told:
                continue
            self._told.add(podview.uid(pod))
            if _in_vain(cause):
                reason = f"server pod {cause.pod}: {cause.reason}"
                return JobEnd(
                    end=End.FAILED, over=False, exit_code=cause.exit_code, reason=reason, pod=cause.pod
                )
            self._out(
                f"{self._name}: server pod {cause.pod} is lost, another takes its place: {cause.reason}"
            )
        there = [pod for pod in self._pods if podview.uid(pod) not in self._told]
        return self._starting.look_at_pods(self._name, there) if there else None


def _in_vain(cause: Cause) -> bool:
    """Another would end the same way: it was refused what it was started with."""
    return cause.exit_code == EXIT_USER and not cause.outside
