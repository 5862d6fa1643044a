"""Identity preference optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compose_rl.core.losses.terms import pair_output, preference_gap
from compose_rl.core.losses.types import LossOutput, PairLogps

if TYPE_CHECKING:
    from compose_rl.config.offline_rl import OfflineRLSettings

__all__ = ["ipo"]


def ipo(pairs: PairLogps, settings: OfflineRLSettings) -> LossOutput:
    """(h - 1 / (2 beta))^2: Azar et al., arXiv 2310.12036, eq. 17, where beta is called tau.

    The paper's h is of sums, which is the default. ``average_log_prob`` takes h per answer token, so that
    long answers do not reach the target sooner; h is then smaller, and beta has to be larger.
    """
    losses = (preference_gap(pairs, settings) - 1 / (2 * settings.beta)) ** 2
    return pair_output(losses, pairs, settings)
