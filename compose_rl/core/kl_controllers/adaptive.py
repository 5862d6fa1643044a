"""The KL's weight grows and shrinks in proportion to the error."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compose_rl.config.online_rl import KLControllerSettings

__all__ = ["AdaptiveKL"]

_MAX_ERROR = 0.2


class AdaptiveKL:
    """coef *= 1 + clip(kl / target - 1, +-0.2) * samples / horizon.

    Ziegler et al., arXiv 1909.08593, section 2.2.
    """

    def __init__(self, settings: KLControllerSettings) -> None:
        self.coef = settings.init_kl_coef
        self._target = settings.target
        self._horizon = settings.horizon

    def update(self, kl: float, samples: int) -> None:
        error = min(max(kl / self._target - 1, -_MAX_ERROR), _MAX_ERROR)
        self.coef *= 1 + error * samples / self._horizon

    def state_dict(self) -> dict[str, float]:
        return {"coef": self.coef}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.coef = state["coef"]
