"""Controllers of the weight of the KL to the reference: one file each, a table to pick from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from compose_rl.core.kl_controllers.adaptive import AdaptiveKL
from compose_rl.core.kl_controllers.ball import BallKL
from compose_rl.core.kl_controllers.fixed import FixedKL
from compose_rl.core.kl_controllers.pid import PIDKL
from compose_rl.core.kl_controllers.types import KLController

if TYPE_CHECKING:
    from compose_rl.config.online_rl import KLControllerSettings

__all__ = ["KL_CONTROLLERS", "KLController"]

KL_CONTROLLERS: Mapping[str, Callable[[KLControllerSettings], KLController]] = {
    "fixed": FixedKL,
    "adaptive": AdaptiveKL,
    "pid": PIDKL,
    "ball": BallKL,
}
"""By ``kl_ctl_type``: made from the section ``kl_controller``."""
