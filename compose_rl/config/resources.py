"""What a job asks of the place that runs it. No part of a stage's key: it cannot change a result."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from compose_rl.config.schema import Config

__all__ = ["SCRATCH", "SHARED_MEMORY", "BackendName", "Resources"]

BackendName = Literal["auto", "process", "pytorchjob", "trainjob", "pod"]

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$")]
"""A Kubernetes quantity, for instance ``64Gi`` or ``500m``."""
DNSLabel = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
DNSName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]

SCRATCH, SHARED_MEMORY = "/tmp", "/dev/shm"
"""Where a trainer may write; its root file system is read-only."""

Object = dict[str, Any]
"""A part of a Kubernetes object, as the API takes it; the API server checks it."""


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

    gpu: str = "nvidia.com/gpu"
    """The name of the GPU resource."""
    extra: dict[str, Quantity] = Field(default_factory=dict)
    """Other resources of each node: ``ephemeral-storage``, ``rdma/ib``, ..."""
    image: str | None = None
    """None: the image that the pipeline was compiled with."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    image_pull_secrets: list[DNSName] = Field(default_factory=list)
    service_account: DNSName | None = None
    """Of the trainer pods, which never speak to the Kubernetes API; it may carry a cloud identity."""
    storage_secret: DNSName = "compose-rl-storage"
    """Secret whose keys become environment variables; may be missing where the service account has access."""
    secrets: list[DNSName] = Field(default_factory=list)
    """More secrets whose keys become environment variables (HF_TOKEN, WANDB_API_KEY); they must be there."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables that are no secret."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[Object] = Field(default_factory=list[Object])
    affinity: Object | None = None
    volumes: list[Object] = Field(default_factory=list[Object])
    volume_mounts: list[Object] = Field(default_factory=list[Object])
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    priority_class: DNSName | None = None
    scheduler_name: DNSName | None = None
    run_as_user: int | None = Field(default=65532, ge=1)
    """None: as the cluster assigns (OpenShift)."""

    queue: DNSName | None = None
    """Kueue's LocalQueue."""
    queue_priority: DNSName | None = None
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
    runtime: DNSName = "compose-rl"
    """The TrainingRuntime of a TrainJob, in its namespace (``manifests/trainer``)."""

    @property
    def procs(self) -> int:
        """Processes on each node."""
        return self.procs_per_node or max(1, self.gpus_per_node)
