"""The KL's weight stays what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compose_rl.config.online_rl import KLControllerSettings

__all__ = ["FixedKL"]


class FixedKL:
    """``init_kl_coef``, always."""

    def __init__(self, settings: KLControllerSettings) -> None:
        self.coef = settings.init_kl_coef

    def update(self, kl: float, samples: int) -> None:
        del kl, samples

    def state_dict(self) -> dict[str, float]:
        return {"coef": self.coef}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.coef = state["coef"]
