"""The kinds of job that a cluster may run, by the name of the backend."""

from __future__ import annotations

from compose_rl.launch.kubernetes.jobkind import JobKind, Phase, State
from compose_rl.launch.kubernetes.pytorchjob import PyTorchJob
from compose_rl.launch.kubernetes.trainjob import TrainJob

__all__ = ["KINDS", "JobKind", "Phase", "State"]

KINDS: dict[str, JobKind] = {"pytorchjob": PyTorchJob(), "trainjob": TrainJob()}
