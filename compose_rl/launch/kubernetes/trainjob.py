"""TrainJob (trainer.kubeflow.org/v1alpha1) of Kubeflow Trainer 2.2 and later.

A TrainJob fills in a runtime, here the TrainingRuntime of its namespace (manifests/components/trainer), and
may set only some fields of its pods. What it may not set, that no pod restarts for instance, the runtime has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compose_rl.config.resources import Resources
from compose_rl.errors import UserError
from compose_rl.launch.kubernetes.jobkind import JobKind, Phase, State, condition_phase
from compose_rl.launch.kubernetes.pods import Trainer, template
from compose_rl.launch.kubernetes.resource import TRAINJOBS

__all__ = ["SECRETS_FOLDER", "TrainJob"]

SECRETS_FOLDER = "/etc/compose-rl/secrets"
"""A file for each key of the secrets, since a TrainJob cannot make environment variables of whole secrets."""

_MANAGER = "compose-rl/launcher"
_JOB = "node"
"""The replicated job of the runtime that runs the trainers; its container has the same name."""
_INDEX = "batch.kubernetes.io/job-completion-index"
_PATCHED_POD = (
    "serviceAccountName",
    "imagePullSecrets",
    "securityContext",
    "nodeSelector",
    "affinity",
    "tolerations",
    "terminationGracePeriodSeconds",
)
_STATES = {"Failed": State.FAILED, "Complete": State.SUCCEEDED, "Suspended": State.QUEUED}
_ONLY_IN_RUNTIME = ("priority_class", "scheduler_name", "image_pull_policy")


class TrainJob(JobKind):
    """As many pods as nodes, of one indexed Job in a JobSet."""

    resource = TRAINJOBS
    kind = "TrainJob"
    container = _JOB
    suspend_path = ("suspend",)

    def spec(self, trainer: Trainer) -> dict[str, Any]:
        resources = trainer.resources
        _check(resources)
        pod = template(trainer, self.container)
        main = pod["spec"]["containers"][0]
        spec: dict[str, Any] = {
            "runtimeRef": {
                "apiGroup": self.resource.group,
                "kind": "TrainingRuntime",
                "name": resources.runtime,
            },
            "suspend": resources.queue is not None,
            "trainer": {
                "image": main["image"],
                "command": [*main["command"], f"--secrets={SECRETS_FOLDER}"],
                "env": main["env"],
                "numNodes": resources.nodes,
                "numProcPerNode": resources.procs,
                "resourcesPerNode": main["resources"],
            },
            "runtimePatches": [_patch(pod)],
        }
        if resources.deadline_minutes is not None:
            spec["activeDeadlineSeconds"] = max(1, round(60 * resources.deadline_minutes))
        return spec

    def phase(self, found: Mapping[str, Any]) -> Phase:
        told = condition_phase(found, _STATES)
        if told is not None:
            return told
        if self.suspended(found):
            return Phase(State.QUEUED)
        jobs: list[Mapping[str, Any]] = found.get("status", {}).get("jobsStatus") or []
        # An active Job has a pod that runs or waits for a place; a ready one has all of them running.
        running = any(job["name"] == _JOB and job.get("ready") for job in jobs)
        return Phase(State.RUNNING if running else State.CREATED)

    def pod_labels(self, name: str) -> dict[str, str]:
        return {"jobset.sigs.k8s.io/jobset-name": name, "jobset.sigs.k8s.io/replicatedjob-name": _JOB}

    def rank(self, pod: Mapping[str, Any]) -> int:
        return int(pod["metadata"]["labels"][_INDEX])


def _check(resources: Resources) -> None:
    for name in _ONLY_IN_RUNTIME:
        value = getattr(resources, name)
        if value is not None:
            raise UserError(
                f"resources: {name}={value}: a TrainJob cannot set it; set it in the TrainingRuntime"
                f" '{resources.runtime}', or backend to pytorchjob"
            )


def _patch(pod: Mapping[str, Any]) -> dict[str, Any]:
    """What of the pod a TrainJob may lay over its runtime."""
    spec, main = pod["spec"], pod["spec"]["containers"][0]
    secrets = {"name": "secrets", "projected": {"sources": [_source(each) for each in main["envFrom"]]}}
    container = {
        "name": _JOB,
        "volumeMounts": [
            *main["volumeMounts"],
            {"name": "secrets", "mountPath": SECRETS_FOLDER, "readOnly": True},
        ],
        "securityContext": main["securityContext"],
    }
    patched = {name: spec[name] for name in _PATCHED_POD if name in spec}
    patched |= {"volumes": [*spec["volumes"], secrets], "containers": [container]}
    job = {"name": _JOB, "template": {"spec": {"template": {"metadata": pod["metadata"], "spec": patched}}}}
    return {
        "manager": _MANAGER,
        "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}},
    }


def _source(from_secret: Mapping[str, Any]) -> dict[str, Any]:
    return {"secret": dict(from_secret["secretRef"])}
