"""What a place that runs jobs has to offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Backend", "JobRequest"]


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """A job to run: ``python -m <module> --job <uri>`` in an environment."""

    stage: str
    key: str
    module: str
    environment: str
    job_uri: str
    procs: int
    """Processes of the training job; 1 for a plain process."""


class Backend(Protocol):
    """Runs a job to its end."""

    def run(self, request: JobRequest) -> int:
        """Run it, showing its output; the exit code of :mod:`compose_rl.errors`, negative for a signal."""
        ...
