"""The figures that the pairwise reward-model losses log."""

from __future__ import annotations

from torch import Tensor

from compose_rl.core.losses.types import LossOutput, PairScores

__all__ = ["score_output"]


def score_output(losses: Tensor, scores: PairScores, extra: dict[str, Tensor] | None = None) -> LossOutput:
    """Mean of ``losses`` [B]; the names are Compose RL's."""
    metrics = {
        "chosen_rewards": scores.chosen,
        "rejected_rewards": scores.rejected,
        "margin": scores.chosen - scores.rejected,
        "accuracy": scores.chosen > scores.rejected,
    } | (extra or {})
    return LossOutput(losses.mean(), {name: value.detach().float().mean() for name, value in metrics.items()})
