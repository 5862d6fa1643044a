"""Losses of the policy in online RL: one file each, a table to pick from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from compose_rl.core.losses.policy.apo import apo
from compose_rl.core.losses.policy.cispo import cispo
from compose_rl.core.losses.policy.clipped import clipped
from compose_rl.core.losses.policy.gspo import gspo
from compose_rl.core.losses.policy.rloo import rloo
from compose_rl.core.losses.policy.types import PolicyTokens, ValueTokens
from compose_rl.core.losses.types import LossOutput

if TYPE_CHECKING:
    from compose_rl.config.online_rl import OnlineRLSettings

__all__ = ["POLICY_LOSSES", "PolicyTokens", "ValueTokens"]

POLICY_LOSSES: Mapping[str, Callable[[PolicyTokens, OnlineRLSettings], LossOutput]] = {
    "ppo": clipped,
    "grpo": clipped,
    "gspo": gspo,
    "rloo": rloo,
    "cispo": cispo,
    "apo": apo,
}
"""By ``loss_type``."""
