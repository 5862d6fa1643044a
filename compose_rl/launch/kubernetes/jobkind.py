"""What every kind of job has: how it is built, where it stands, how its pods are found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from compose_rl.launch.attempts import job_uri
from compose_rl.launch.backend import JobRequest
from compose_rl.launch.kubernetes import naming
from compose_rl.launch.kubernetes.pods import Trainer
from compose_rl.launch.kubernetes.resource import Resource
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
                },
            },
            "spec": self.spec(trainer),
        }

    def digest(self, request: JobRequest, *, image: str) -> str:
        """SHA-256 of what was asked for: equal for launchers that would build the same job.

        The attempt, the number and what the launcher passes on from its environment do not count.
        """
        trainer = Trainer.of(request, job="", number=0, image=image, environ={})
        return naming.digest({"kind": self.kind, "spec": self.spec(trainer)})

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
