"""What the loop has to remember, so that a run that was killed goes on as if it had not been."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["LoopState"]


@dataclass
class LoopState:
    """All of it is the same on every rank."""

    taken: int = 0
    """Prompts taken from the source, all passes counted."""
    controller: dict[str, float] = field(default_factory=dict)
    measured_kl: float | None = None
    """KL to the reference of this iteration's answers, which its controller hears of before the next."""
    policy_kl: list[float] = field(default_factory=list)
    """KL(old || new) of the batches of this pass."""
    stopped: bool = False
    """The iteration's later passes are left out."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Lines of samples.jsonl."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> LoopState:
        return cls(**json.loads(text))
