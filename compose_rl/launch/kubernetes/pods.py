"""The pod of a trainer, the same for every kind of job: one container that runs the stage's module.

It meets the Pod Security Standard "restricted", asks for no more than its resources, and never speaks to the
Kubernetes API.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compose_rl.config.resources import SCRATCH, SHARED_MEMORY, Resources
from compose_rl.launch.backend import JobRequest
from compose_rl.launch.kubernetes import naming
from compose_rl.launch.kubernetes.resource import Object

__all__ = ["PASSED_ON", "Trainer", "container_security", "pod_security", "template"]

PASSED_ON = (
    "AWS_ENDPOINT_URL",
    "S3_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "MLFLOW_RUN_ID",
    "MLFLOW_TRACKING_URI",
)
"""What a trainer takes from its launcher's environment; never a credential."""

_OWN_SHARE_OF_GRACE = 0.9
_NO_SIDECAR = {"sidecar.istio.io/inject": "false"}
"""A sidecar outlives the trainer, so that its job never ends, and knows nothing of what trainers speak."""


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """What a trainer's container runs."""

    module: str
    """What is started as ``python -m``."""
    job: str
    """URI of the job file."""
    stage: str
    key: str
    number: int
    image: str
    resources: Resources
    environ: Mapping[str, str]
    """The launcher's environment; only :data:`PASSED_ON` is taken from it."""
    more_environment: tuple[Object, ...] = ()
    """More of the container's ``env``, as Kubernetes takes it."""

    @classmethod
    def of(
        cls, request: JobRequest, *, job: str, number: int, image: str, environ: Mapping[str, str]
    ) -> Trainer:
        """The trainers of a request; the arguments are those of :meth:`JobKind.build`."""
        return cls(
            module=request.spec.entry,
            job=job,
            stage=request.spec.name,
            key=request.key,
            number=number,
            image=request.resources.image or image,
            resources=request.resources,
            environ=environ,
        )

    @property
    def command(self) -> list[str]:
        words = ["python", "-m", "compose_rl.launch.trainer", "--module", self.module, "--job", self.job]
        return [*words, f"--nodes={self.resources.nodes}", f"--procs={self.resources.procs}"]

    @property
    def labels(self) -> dict[str, str]:
        """Of the job and its pods."""
        return {**self.resources.labels, **naming.labels(self.stage, self.key, self.number)}

    @property
    def queue_labels(self) -> dict[str, str]:
        """Of the job alone."""
        chosen = {
            naming.QUEUE_LABEL: self.resources.queue,
            naming.QUEUE_PRIORITY_LABEL: self.resources.queue_priority,
        }
        return {name: value for name, value in chosen.items() if value}


def template(trainer: Trainer, container: str) -> dict[str, Any]:
    """The pod template of a trainer.

    Args:
        container: the name of its container, which the operator prescribes.
    """
    resources = trainer.resources
    spec: dict[str, Any] = {
        "containers": [_container(trainer, container)],
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": round(60 * resources.grace_minutes),
        "securityContext": pod_security(resources.run_as_user),
        "volumes": [*_own_volumes(resources), *resources.volumes],
    }
    optional = {
        "serviceAccountName": resources.service_account,
        "imagePullSecrets": [{"name": name} for name in resources.image_pull_secrets],
        "nodeSelector": resources.node_selector,
        "tolerations": resources.tolerations,
        "affinity": resources.affinity,
        "priorityClassName": resources.priority_class,
        "schedulerName": resources.scheduler_name,
        # The operator looks at a job's own deadline only when something else about the job changes.
        "activeDeadlineSeconds": resources.deadline_minutes
        and max(1, round(60 * resources.deadline_minutes)),
    }
    spec |= {name: value for name, value in optional.items() if value}
    metadata: dict[str, Any] = {"labels": {**_NO_SIDECAR, **trainer.labels}}
    if resources.annotations:
        metadata["annotations"] = dict(resources.annotations)
    return {"metadata": metadata, "spec": spec}


def _container(trainer: Trainer, name: str) -> dict[str, Any]:
    resources = trainer.resources
    secrets = [{"secretRef": {"name": resources.storage_secret, "optional": True}}]
    secrets += [{"secretRef": {"name": secret}} for secret in resources.secrets]
    container: dict[str, Any] = {
        "name": name,
        "image": trainer.image,
        "command": trainer.command,
        "env": _environment(trainer),
        "envFrom": secrets,
        "resources": _quantities(resources),
        "volumeMounts": [
            {"name": "scratch", "mountPath": SCRATCH},
            {"name": "shared-memory", "mountPath": SHARED_MEMORY},
            *resources.volume_mounts,
        ],
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if resources.image_pull_policy:
        container["imagePullPolicy"] = resources.image_pull_policy
    return container


def _environment(trainer: Trainer) -> list[Object]:
    passed = {name: trainer.environ[name] for name in PASSED_ON if trainer.environ.get(name)}
    # A trainer that could not save in time says so before it is killed.
    grace = 60 * trainer.resources.grace_minutes * _OWN_SHARE_OF_GRACE
    own = {"COMPOSE_RL_IMAGE": trainer.image, "COMPOSE_RL_GRACE_SECONDS": f"{grace:g}"}
    values = {**own, **passed, **trainer.resources.env}
    plain: list[Object] = [{"name": name, "value": value} for name, value in values.items()]
    return [*plain, *trainer.more_environment]


def _quantities(resources: Resources) -> dict[str, Any]:
    """Requests are limits: a trainer that lives off what others leave dies when they come back."""
    asked = {"cpu": resources.cpu, "memory": resources.memory, **resources.extra}
    amounts = {name: value for name, value in asked.items() if value is not None}
    if resources.gpus_per_node:
        amounts[resources.gpu] = str(resources.gpus_per_node)
    return {"requests": amounts, "limits": dict(amounts)} if amounts else {}


def _own_volumes(resources: Resources) -> list[dict[str, Any]]:
    shared: dict[str, Any] = {"medium": "Memory"}
    size = resources.shm or resources.memory
    if size:
        shared["sizeLimit"] = size
    return [{"name": "scratch", "emptyDir": {}}, {"name": "shared-memory", "emptyDir": shared}]


def pod_security(user: int | None) -> dict[str, Any]:
    """The pod's part of "restricted".

    Args:
        user: None: the cluster assigns one (OpenShift).
    """
    context: dict[str, Any] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if user is not None:
        context |= {"runAsUser": user, "runAsGroup": user, "fsGroup": user}
        context["fsGroupChangePolicy"] = "OnRootMismatch"
    return context


def container_security() -> dict[str, Any]:
    """The container's part of "restricted", and a root file system that cannot be written."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
