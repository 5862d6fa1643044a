"""DPO with soft labels from a reward model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn.functional import logsigmoid

from compose_rl.core.losses.terms import pair_output, preference_gap, reward_gap
from compose_rl.core.losses.types import LossOutput, PairLogps

if TYPE_CHECKING:
    from compose_rl.config.offline_rl import OfflineRLSettings

__all__ = ["rcdpo"]


def rcdpo(pairs: PairLogps, settings: OfflineRLSettings) -> LossOutput:
    """-p log sigma(beta h) - (1 - p) log sigma(-beta h), p = sigma(r(chosen) - r(rejected)).

    The cross-entropy from the reward model's Bradley-Terry probability to the policy's: DPO (Rafailov et al.,
    arXiv 2305.18290, eq. 7) with a soft label. It is ``rpo`` at eta = 1 plus the entropy of p, a constant.
    """
    logits = settings.beta * preference_gap(pairs, settings)
    reward_diff = reward_gap(pairs, settings)
    losses = -reward_diff.sigmoid() * logsigmoid(logits) - (-reward_diff).sigmoid() * logsigmoid(-logits)
    return pair_output(losses, pairs, settings, {"reward_diff": reward_diff})
