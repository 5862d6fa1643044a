"""The KL's weight as the multiplier of a constraint that costs nothing while it holds."""

from __future__ import annotations

from compose_rl.core.kl_controllers.pid import PIDKL

__all__ = ["BallKL"]


class BallKL(PIDKL):
    """As ``pid``, and never below 0: inside the ball KL <= target the policy is free."""

    def update(self, kl: float, samples: int) -> None:
        super().update(kl, samples)
        self.coef = max(self.coef, 0.0)
