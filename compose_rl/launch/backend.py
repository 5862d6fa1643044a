"""What a place that runs jobs has to offer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from compose_rl.config.resources import Resources
from compose_rl.launch.attempts import begin
from compose_rl.stages.attempt import JobFile
from compose_rl.stages.spec import StageSpec
from compose_rl.store import Store
from compose_rl.store.manifest import Manifest

__all__ = ["Backend", "Ended", "JobRequest"]


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """A job to run: one stage at one key."""

    spec: StageSpec
    key: str
    store: Store
    config: Mapping[str, Any]
    inputs: Mapping[str, Manifest]
    resources: Resources

    def begin(self, *, leased: bool = False) -> JobFile:
        """A new attempt: its job file lies in the store.

        Args:
            leased: the job ends by itself when no launcher holds a lease on the key any more.
        """
        return begin(self.store, self.job_file(leased=leased))

    def job_file(self, *, leased: bool = False) -> JobFile:
        """What every attempt's job file says; it names no attempt yet."""
        lease_minutes = self.resources.lease_minutes if leased else None
        return JobFile(
            stage=self.spec.name,
            key=self.key,
            storage=self.store.uri,
            config=dict(self.config),
            inputs=dict(self.inputs),
            nodes=self.resources.nodes,
            procs=self.resources.procs,
            lease_minutes=lease_minutes,
        )


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a job ended."""

    job: JobFile
    exit_code: int
    """Of :mod:`compose_rl.errors`; negative for a signal."""
    reason: str = ""
    """One line: what the place knows of the end, as ``OOMKilled``; empty where the code says all."""


class Backend(Protocol):
    """Runs a job to its end."""

    def run(self, request: JobRequest) -> Ended:
        """Start the job, or take part in one that already runs for the key, and show its output.

        Raises:
            UserError: the place refuses the job, before it asks for a GPU where that can be known.
            TransientError: the place cannot be reached, or the job kept ending by what should have passed.
        """
        ...
