"""Advantages: one file each; those of answers to the same prompt by ``loss_type``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from compose_rl.core.advantages.gae import gae
from compose_rl.core.advantages.group import group
from compose_rl.core.advantages.leave_one_out import leave_one_out
from compose_rl.core.advantages.optimal_value import optimal_value
from compose_rl.core.advantages.whiten import whiten

if TYPE_CHECKING:
    from compose_rl.config.online_rl import OnlineRLSettings

__all__ = ["ADVANTAGES", "gae", "group", "leave_one_out", "optimal_value", "whiten"]

ADVANTAGES: Mapping[str, Callable[[Tensor, Tensor, Tensor, OnlineRLSettings], Tensor]] = {
    "grpo": group,
    "gspo": group,
    "cispo": group,
    "rloo": leave_one_out,
}
"""(rewards [n], group_ids [n], answer_weights [n], settings) -> [n], by ``loss_type``. ``ppo`` has its
advantages from :func:`gae`, per token; ``apo`` needs none."""
