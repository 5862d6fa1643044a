"""What every kind of job has: how it is built, where it stands, how its pods are found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, ClassVar

from compose_rl.launch.attempts import job_uri
from compose_rl.launch.backend import JobRequest
from compose_rl.launch.kubernetes import naming
from compose_rl.launch.kubernetes.pods import Trainer
from compose_rl.launch.kubernetes.resource import Resource
from compose_rl.launch.kubernetes.servers import Servers
from compose_rl.stages.attempt import JobFile

__all__ = ["JobKind", "Phase", "State", "condition_phase", "true_conditions"]

Object = Mapping[str, Any]


class State(StrEnum):
    """CREATED: no pod of it runs yet. QUEUED: suspended, as by a queue."""

    CREATED = "created"
    QUEUED = "queued"
    RUNNING = "running"
    RESTARTING = "restarting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True)
class Phase:
    """Where a job stands, as its operator says."""

    state: State
    reason: str = ""
    """One word, for instance ``DeadlineExceeded``."""
    message: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more can come."""
        return self.state in (State.SUCCEEDED, State.FAILED)


class JobKind(ABC):
    """A kind of job object. All methods are pure."""

    resource: ClassVar[Resource]
    kind: ClassVar[str]
    container: ClassVar[str]
    """The name of the trainer's container, which the operator prescribes."""
    suspend_path: ClassVar[tuple[str, ...]]
    """Where in an object's ``spec`` the switch lies that takes its pods away and keeps the object.

    A queue that manages the job may turn it back; such a job is deleted instead."""

    def build(
        self, request: JobRequest, *, job: JobFile, number: int, image: str, environ: Mapping[str, str]
    ) -> dict[str, Any]:
        """The object of a new job, without holders and owners.

        A job for a queue starts suspended, so that it holds nothing before the queue lets it.

        Args:
            number: which of the jobs at the key it is.
            image: of the trainers, where ``resources.image`` names none.
            environ: the launcher's environment, of which
                :data:`compose_rl.launch.kubernetes.pods.PASSED_ON` goes on to the trainers.

        Raises:
            UserError: this kind of job cannot have what the resources ask for.
        """
        trainer = Trainer.of(request, job=job_uri(job), number=number, image=image, environ=environ)
        trainer, servers = _with_servers(request, trainer)
        own = {} if servers is None else {naming.SERVERS: servers.name}
        return {
            "apiVersion": self.resource.api_version,
            "kind": self.kind,
            "metadata": {
                "name": naming.job_name(trainer.stage, trainer.key, number),
                "labels": {**trainer.labels, **trainer.queue_labels},
                "annotations": {
                    **trainer.resources.annotations,
                    naming.KEY: trainer.key,
                    naming.JOB: trainer.job,
                    naming.DIGEST: self.digest(request, image=image),
                    **own,
                },
            },
            "spec": self.spec(trainer),
        }

    def digest(self, request: JobRequest, *, image: str) -> str:
        """SHA-256 of what was asked for: equal for launchers that would build the same job.

        The attempt, the number and what the launcher passes on from its environment do not count.
        """
        trainer = Trainer.of(request, job="", number=0, image=image, environ={})
        trainer, servers = _with_servers(request, trainer)
        asked = {"kind": self.kind, "spec": self.spec(trainer)}
        return naming.digest(asked if servers is None else {**asked, "servers": servers.job_spec()})

    def servers(
        self, request: JobRequest, *, job: JobFile, number: int, image: str, environ: Mapping[str, str]
    ) -> Servers | None:
        """The rollout servers that belong to the job of the same arguments; None where it needs none."""
        trainer = Trainer.of(request, job=job_uri(job), number=number, image=image, environ=environ)
        return Servers.of(request, trainer)

    def reference(self, found: Object) -> dict[str, Any]:
        """The owner reference of what belongs to a job."""
        metadata = found["metadata"]
        named = {"apiVersion": self.resource.api_version, "kind": self.kind}
        owner = {"name": metadata["name"], "uid": metadata["uid"]}
        return {**named, **owner, "controller": False, "blockOwnerDeletion": False}

    @abstractmethod
    def spec(self, trainer: Trainer) -> dict[str, Any]:
        """The object's ``spec``."""

    @abstractmethod
    def phase(self, found: Object) -> Phase:
        """Where the job stands."""

    def suspended(self, found: Object) -> bool:
        """Whether the job is to have no pods now."""
        place: Any = found["spec"]
        for name in self.suspend_path:
            place = place.get(name) or {}
        return place is True

    @abstractmethod
    def pod_labels(self, name: str) -> dict[str, str]:
        """The labels by which the operator's pods of the job called ``name`` are found."""

    @abstractmethod
    def rank(self, pod: Object) -> int:
        """Which node of the job a pod is, from 0."""

    def rank_zero(self, pod: Object) -> bool:
        """Whether the pod runs the job's rank 0."""
        return self.rank(pod) == 0


def _with_servers(request: JobRequest, trainer: Trainer) -> tuple[Trainer, Servers | None]:
    """The trainer with what it has to know of its servers."""
    servers = Servers.of(request, trainer)
    more = () if servers is None else tuple(servers.trainer_environment())
    return replace(trainer, more_environment=more), servers


def true_conditions(found: Object) -> dict[str, Object]:
    """The conditions of an object that hold, by type."""
    conditions: list[Object] = found.get("status", {}).get("conditions") or []
    return {c["type"]: c for c in conditions if c.get("status") == "True"}


def condition_phase(found: Object, states: Mapping[str, State]) -> Phase | None:
    """What the first of ``states`` (by type of condition) that holds says; None where none holds."""
    conditions = true_conditions(found)
    for name, state in states.items():
        if name in conditions:
            condition = conditions[name]
            return Phase(state, condition.get("reason", ""), condition.get("message", ""))
    return None
