"""Reward-aware preference optimisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn.functional import logsigmoid

from compose_rl.core.losses.terms import pair_output, preference_gap, reward_gap
from compose_rl.core.losses.types import LossOutput, PairLogps

if TYPE_CHECKING:
    from compose_rl.config.offline_rl import OfflineRLSettings

__all__ = ["rpo"]


def rpo(pairs: PairLogps, settings: OfflineRLSettings) -> LossOutput:
    """KL( Bernoulli(sigma(eta dr)) || Bernoulli(sigma(beta h)) ), dr = r(chosen) - r(rejected).

    NVIDIA, Nemotron-4 340B report, arXiv 2406.11704, section 3.3.2: the distance D[beta h || eta dr].
    The KL runs from the reward's preference probability to the policy's, and is 0 where they agree.
    """
    logits = settings.beta * preference_gap(pairs, settings)
    reward_diff = reward_gap(pairs, settings)
    target = settings.eta * reward_diff
    losses = target.sigmoid() * (logsigmoid(target) - logsigmoid(logits)) + (-target).sigmoid() * (
        logsigmoid(-target) - logsigmoid(-logits)
    )
    return pair_output(losses, pairs, settings, {"reward_diff": reward_diff})
