"""What a job asks of the place that runs it. No part of a stage's key: it cannot change a result."""

from __future__ import annotations

import posixpath
import re
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from compose_rl.config.cluster_syntax import (
    Annotations,
    DNSName,
    Environment,
    Image,
    Labels,
    Quantity,
    ResourceName,
    ShortName,
)
from compose_rl.config.schema import Config, problem

__all__ = ["SCRATCH", "SHARED_MEMORY", "BackendName", "Resources", "RolloutResources"]

BackendName = Literal["auto", "process", "pytorchjob", "trainjob", "pod"]

SCRATCH, SHARED_MEMORY = "/tmp", "/dev/shm"
"""Where a trainer may write; its root file system is read-only."""

Object = dict[str, Any]
"""A part of a Kubernetes object, as the API takes it; the API server checks it."""

_OWN_VOLUMES = ("scratch", "shared-memory", "secrets")
"""Names that every trainer pod has."""
_GPU = re.compile(r"/(gpu|mig-)")
_TAKEN_PATHS = ("/", "/dev", SCRATCH, SHARED_MEMORY)


class RolloutResources(Config):
    """What each rollout server of online RL asks for; what is not said here is as for a trainer."""

    image: Image | None = None
    """None: the trainers', where the engine runs in their environment."""
    gpus: int | None = Field(default=None, ge=0)
    """None: ``engine.tensor_parallel_size`` where trainers have GPUs, else none."""
    cpu: Quantity | None = None
    memory: Quantity | None = None
    shm: Quantity | None = None
    node_selector: Labels | None = None
    tolerations: list[Object] | None = None


class Resources(Config):
    """Where and with what a job runs.

    The first group is what every user sets; the rest has defaults that work.
    """

    backend: BackendName = "auto"
    """``auto``: processes here where the stage's environment is installed, else a PyTorchJob."""
    nodes: int = Field(default=1, ge=1)
    gpus_per_node: int = Field(default=0, ge=0)
    procs_per_node: int = Field(default=0, ge=0)
    """0: one for each GPU, and one where there is none."""
    cpu: Quantity | None = None
    """Of each node."""
    memory: Quantity | None = None
    """Of each node."""
    shm: Quantity | None = None
    """Size limit of /dev/shm; None: as much as the memory."""

    gpu: ResourceName = "nvidia.com/gpu"
    """The name of the GPU resource."""
    extra: dict[ResourceName, Quantity] = Field(default_factory=dict)
    """Other resources of each node: ``ephemeral-storage``, ``rdma/ib``, ..."""
    image: Image | None = None
    """None: the image that the pipeline was compiled with."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    image_pull_secrets: list[DNSName] = Field(default_factory=list)
    service_account: DNSName | None = None
    """Of the trainer pods, which never speak to the Kubernetes API; it may carry a cloud identity."""
    storage_secret: DNSName = "compose-rl-storage"
    """Secret whose keys become environment variables; may be missing where the service account has access."""
    secrets: list[DNSName] = Field(default_factory=list)
    """More secrets whose keys become environment variables (HF_TOKEN, WANDB_API_KEY); they must be there."""
    env: Environment = Field(default_factory=dict)
    """Environment variables that are no secret."""
    node_selector: Labels = Field(default_factory=dict)
    tolerations: list[Object] = Field(default_factory=list[Object])
    affinity: Object | None = None
    volumes: list[Object] = Field(default_factory=list[Object])
    volume_mounts: list[Object] = Field(default_factory=list[Object])
    labels: Labels = Field(default_factory=dict)
    annotations: Annotations = Field(default_factory=dict)
    priority_class: DNSName | None = None
    scheduler_name: DNSName | None = None
    run_as_user: int | None = Field(default=65532, ge=1)
    """None: as the cluster assigns (OpenShift)."""

    queue: ShortName | None = None
    """Kueue's LocalQueue."""
    queue_priority: ShortName | None = None
    """Kueue's WorkloadPriorityClass."""
    queue_minutes: float = Field(default=24 * 60, gt=0)
    """How long to wait for a place before giving up; waiting is no failure."""
    start_minutes: float = Field(default=30, gt=0)
    """How long a pod with a place may take to start (image pull, volumes)."""
    deadline_minutes: float | None = Field(default=None, gt=0)
    """How long the job may run."""
    lease_minutes: float = Field(default=5, ge=0.05)
    """How long trainers go on when no launcher renews its lease; then they save their state and leave."""
    grace_minutes: float = Field(default=5, gt=0)
    """How long a trainer that is asked to leave has for saving its state, before it is killed."""
    ttl_minutes: float = Field(default=60, gt=0)
    """How long a finished job stays to be looked at."""
    tries: int = Field(default=3, ge=1)
    """Jobs started, in all, while they end by what may pass: preemption, a lost node, storage."""
    check_nodes: bool = True
    """Refuse more GPUs than any node has; False where nodes are added on demand."""
    rollout: RolloutResources = Field(default_factory=RolloutResources)
    """Of the servers beside the trainers (``engine.kind`` ``vllm`` or ``server``)."""
    runtime: DNSName = "compose-rl"
    """The TrainingRuntime of a TrainJob, in its namespace (``manifests/components/trainer``)."""

    @property
    def procs(self) -> int:
        """Processes on each node."""
        return self.procs_per_node or max(1, self.gpus_per_node)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        gpus, procs = self.gpus_per_node, self.procs_per_node
        if gpus and procs not in (0, gpus):
            raise problem(
                f"procs_per_node={procs}, but gpus_per_node={gpus}: a process takes one GPU;"
                " leave procs_per_node at 0, or set both to the same"
            )
        for name in self.extra:
            field = {"cpu": "cpu", "memory": "memory", self.gpu: "gpus_per_node"}.get(name)
            if field or _GPU.search(name):
                instead = field or "gpu and gpus_per_node"
                raise problem(f"extra: {name}={self.extra[name]}: set {instead} instead")
        if self.queue_priority and not self.queue:
            raise problem(f"queue_priority={self.queue_priority}, but there is no queue; set queue")
        self._check_volumes()
        return self

    def _check_volumes(self) -> None:
        names = [str(volume.get("name", "")) for volume in self.volumes]
        for name in names:
            if not name:
                raise problem("volumes: a volume has no name; give each a name")
            if name in _OWN_VOLUMES or names.count(name) > 1:
                raise problem(f"volumes: the name '{name}' is taken; choose another")
        paths: list[str] = []
        for mount in self.volume_mounts:
            name, path = str(mount.get("name", "")), posixpath.normpath(str(mount.get("mountPath", "")))
            if name not in names:
                known = ", ".join(names) or "none"
                raise problem(
                    f"volume_mounts: no volume is called '{name}' (volumes: {known}); add it to volumes"
                )
            if not path.startswith("/"):
                raise problem(f"volume_mounts: '{name}' needs a mountPath that starts with '/'")
            if path in _TAKEN_PATHS or path in paths:
                raise problem(f"volume_mounts: mountPath {path} of '{name}' is taken; choose another folder")
            paths.append(path)
