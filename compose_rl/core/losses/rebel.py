"""Regression to relative rewards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compose_rl.core.losses.terms import pair_output, preference_gap, reward_gap
from compose_rl.core.losses.types import LossOutput, PairLogps

if TYPE_CHECKING:
    from compose_rl.config.offline_rl import OfflineRLSettings

__all__ = ["rebel"]


def rebel(pairs: PairLogps, settings: OfflineRLSettings) -> LossOutput:
    """(beta h - dr)^2, dr = r(chosen) - r(rejected): Gao et al., arXiv 2404.16767, alg. 1; beta = 1/eta."""
    reward_diff = reward_gap(pairs, settings)
    losses = (settings.beta * preference_gap(pairs, settings) - reward_diff) ** 2
    return pair_output(losses, pairs, settings, {"reward_diff": reward_diff})
