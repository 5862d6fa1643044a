"""Bradley-Terry with the sign of the scores made to mean something."""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from compose_rl.core.losses.scores import score_output
from compose_rl.core.losses.types import LossOutput, PairScores

__all__ = ["bt_eurus"]


def bt_eurus(scores: PairScores) -> LossOutput:
    """-log sigma(s_c - s_r) - log sigma(s_c) - log sigma(-s_r): Yuan et al., arXiv 2404.02078, L_BT + L_DR.

    The second part draws chosen scores above 0 and rejected ones below, which differences alone leave open.
    """
    bt_losses = -logsigmoid(scores.chosen - scores.rejected)
    score_losses = -logsigmoid(scores.chosen) - logsigmoid(-scores.rejected)
    return score_output(bt_losses + score_losses, scores, {"bt_loss": bt_losses, "score_loss": score_losses})
