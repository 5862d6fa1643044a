"""How a job ended, or why it has to be ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from compose_rl.errors import EXIT_TRANSIENT
from compose_rl.launch.kubernetes.resource import Object

__all__ = ["End", "JobEnd"]


class End(StrEnum):
    """How the following of a job ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DELETED = "deleted"
    """By somebody else."""
    LEFT = "left"
    """Its last holder has left it, or it was given up."""


@dataclass(frozen=True, kw_only=True)
class JobEnd:
    """How a job ended, or why it has to be ended."""

    end: End
    over: bool = True
    """False: it still is there, with pods that wait or hang; whoever follows it has to end it."""
    exit_code: int = 0
    """Of :mod:`compose_rl.errors`; others where the program chose them."""
    reason: str = ""
    """One line; names the pod or the job."""
    outside: bool = False
    """The cluster's doing (out of memory, a deadline): it explains more than what the program said."""
    pod: str = ""
    """The pod that failed."""
    job: Object = field(default_factory=dict[str, object])
    """The object as it was last seen."""

    @property
    def transient(self) -> bool:
        """Another job may succeed."""
        return self.exit_code == EXIT_TRANSIENT
