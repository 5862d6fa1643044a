"""The KL's weight as the multiplier of a constraint, moved by Adam."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compose_rl.config.online_rl import KLControllerSettings

__all__ = ["PIDKL"]

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class PIDKL:
    """A step of Adam (Kingma and Ba, arXiv 1412.6980) with learning rate ``kl_lr`` up the dual of
    KL <= target, whose gradient is (kl - target) * samples / horizon.

    Nothing keeps the weight from falling below 0, which rewards KL while it is under its target;
    ``ball`` does.
    """

    def __init__(self, settings: KLControllerSettings) -> None:
        self.coef = settings.init_kl_coef
        self._target = settings.target
        self._horizon = settings.horizon
        self._rate = settings.kl_lr
        self._mean = self._square = 0.0
        self._steps = 0

    def update(self, kl: float, samples: int) -> None:
        error = (kl - self._target) * samples / self._horizon
        self._steps += 1
        self._mean = _BETA1 * self._mean + (1 - _BETA1) * error
        self._square = _BETA2 * self._square + (1 - _BETA2) * error**2
        mean = self._mean / (1 - _BETA1**self._steps)
        square = self._square / (1 - _BETA2**self._steps)
        self.coef += self._rate * mean / (sqrt(square) + _EPSILON)

    def state_dict(self) -> dict[str, float]:
        return {"coef": self.coef, "mean": self._mean, "square": self._square, "steps": self._steps}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.coef, self._mean, self._square = state["coef"], state["mean"], state["square"]
        self._steps = int(state["steps"])
