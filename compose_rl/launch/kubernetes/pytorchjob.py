"""PyTorchJob (kubeflow.org/v1) of the training operator 1.9."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compose_rl.launch.kubernetes.jobkind import JobKind, Phase, State, condition_phase
from compose_rl.launch.kubernetes.pods import Trainer, template
from compose_rl.launch.kubernetes.resource import PYTORCHJOBS

__all__ = ["PyTorchJob"]

_NAME = "training.kubeflow.org/job-name"
_TYPE = "training.kubeflow.org/replica-type"
_INDEX = "training.kubeflow.org/replica-index"

_STATES = {
    # The first that holds: the operator keeps older conditions, and a worker may fail beside a good master.
    "Failed": State.FAILED,
    "Succeeded": State.SUCCEEDED,
    "Suspended": State.QUEUED,
    "Restarting": State.RESTARTING,
    "Running": State.RUNNING,
    "Created": State.CREATED,
}


class PyTorchJob(JobKind):
    """One master, the others workers; any pod that fails ends the job, and nothing is left to run."""

    resource = PYTORCHJOBS
    kind = "PyTorchJob"
    container = "pytorch"
    suspend_path = ("runPolicy", "suspend")

    def spec(self, trainer: Trainer) -> dict[str, Any]:
        nodes = trainer.resources.nodes
        replicas = {"Master": 1, "Worker": nodes - 1}
        return {
            "nprocPerNode": str(trainer.resources.procs),
            "runPolicy": _run_policy(trainer),
            "pytorchReplicaSpecs": {
                role: {
                    "replicas": count,
                    "restartPolicy": "Never",
                    "template": template(trainer, self.container),
                }
                for role, count in replicas.items()
                if count
            },
        }

    def phase(self, found: Mapping[str, Any]) -> Phase:
        otherwise = Phase(State.QUEUED if self.suspended(found) else State.CREATED)
        return condition_phase(found, _STATES) or otherwise

    def pod_labels(self, name: str) -> dict[str, str]:
        return {_NAME: name}

    def rank(self, pod: Mapping[str, Any]) -> int:
        labels = pod["metadata"]["labels"]
        return int(labels[_INDEX]) + (labels[_TYPE] == "worker")


def _run_policy(trainer: Trainer) -> dict[str, Any]:
    """The operator's own defaults leave pods running after the end and restart them for ever.

    No ``backoffLimit``: pods that never restart need none, and where it is exceeded the operator removes the
    failed pods too, with their logs and the reason why they failed.
    """
    resources = trainer.resources
    policy: dict[str, Any] = {
        "cleanPodPolicy": "Running",
        "ttlSecondsAfterFinished": round(60 * resources.ttl_minutes),
        "suspend": resources.queue is not None,
    }
    if resources.deadline_minutes is not None:
        policy["activeDeadlineSeconds"] = max(1, round(60 * resources.deadline_minutes))
    return policy
