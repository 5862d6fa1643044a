"""What a KL controller is."""

from __future__ import annotations

from typing import Protocol

__all__ = ["KLController"]


class KLController(Protocol):
    """Moves the weight of the KL to the reference, once an iteration."""

    @property
    def coef(self) -> float:
        """The weight now."""
        ...

    def update(self, kl: float, samples: int) -> None:
        """Take notice of an iteration.

        Args:
            kl: KL(policy || reference) in nats, as ``target``.
            samples: answers it was measured on; ``horizon`` counts them.
        """
        ...

    def state_dict(self) -> dict[str, float]:
        """Plain numbers, for JSON."""
        ...

    def load_state_dict(self, state: dict[str, float]) -> None: ...
