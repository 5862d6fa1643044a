"""Direct preference optimisation, with label smoothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn.functional import logsigmoid

from compose_rl.core.losses.terms import pair_output, preference_gap
from compose_rl.core.losses.types import LossOutput, PairLogps

if TYPE_CHECKING:
    from compose_rl.config.offline_rl import OfflineRLSettings

__all__ = ["dpo"]


def dpo(pairs: PairLogps, settings: OfflineRLSettings) -> LossOutput:
    """-(1 - eps) log sigma(beta h) - eps log sigma(-beta h).

    eps = 0: Rafailov et al., arXiv 2305.18290, eq. 7. eps = ``label_smoothing``, the probability that a
    preference is flipped: cDPO (Mitchell, "A note on DPO with noisy preferences", 2023).
    """
    logits = settings.beta * preference_gap(pairs, settings)
    flipped = settings.label_smoothing
    losses = -(1 - flipped) * logsigmoid(logits) - flipped * logsigmoid(-logits)
    return pair_output(losses, pairs, settings)
