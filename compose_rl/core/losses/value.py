"""The critic's loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compose_rl.core.aggregation import weighted_mean
from compose_rl.core.losses.policy.types import ValueTokens
from compose_rl.core.losses.types import LossOutput

if TYPE_CHECKING:
    from compose_rl.config.online_rl import OnlineRLSettings

__all__ = ["explained_variance", "value_loss"]


def value_loss(tokens: ValueTokens, settings: OnlineRLSettings) -> LossOutput:
    """``value_loss_weight`` * max[(v - R)^2, (clip(v, v_old +- ``value_clip_range``) - R)^2] / 2.

    Aggregated as the policy's loss. The metric ``value_loss`` is what it adds to the loss.
    """
    reach = settings.value_clip_range
    near = tokens.old_values + (tokens.values - tokens.old_values).clamp(-reach, reach)
    losses = torch.maximum((tokens.values - tokens.returns).square(), (near - tokens.returns).square()) / 2
    loss = settings.value_loss_weight * weighted_mean(losses, tokens.weights, tokens.answer_weights)
    return LossOutput(loss, {"value_loss": loss.detach().float()})


def explained_variance(values: Tensor, returns: Tensor, weights: Tensor) -> float:
    """1 - Var[returns - values] / Var[returns] over tokens weighed by ``weights``, all [A].

    1 for a perfect critic, 0 for a constant one; NaN where the returns are all equal.
    """
    spread = _variance(returns, weights)
    return 1 - _variance(returns - values, weights) / spread if spread > 0 else float("nan")


def _variance(values: Tensor, weights: Tensor) -> float:
    exact = torch.where(weights > 0, values.detach().double(), 0.0)
    shares = weights.double() / weights.double().sum()
    mean = (shares * exact).sum()
    return float((shares * (exact - mean).square()).sum())
