"""The Bradley-Terry loss of reward models."""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from compose_rl.core.losses.scores import score_output
from compose_rl.core.losses.types import LossOutput, PairScores

__all__ = ["bt"]


def bt(scores: PairScores) -> LossOutput:
    """-log sigma(s_chosen - s_rejected): Ouyang et al., arXiv 2203.02155, eq. 1, with one pair per prompt."""
    return score_output(-logsigmoid(scores.chosen - scores.rejected), scores)
