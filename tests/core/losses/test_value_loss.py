"""The critic's loss by hand."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from compose_rl.config.online_rl import OnlineRLSettings  # noqa: E402
from compose_rl.core.losses.policy import ValueTokens  # noqa: E402
from compose_rl.core.losses.value import explained_variance, value_loss  # noqa: E402

SETTINGS = OnlineRLSettings(loss_type="ppo", value_loss_weight=0.5, value_clip_range=0.2)


def test_value_loss_by_hand():
    values = torch.tensor([1.0, 1.0, 9.0], requires_grad=True)
    tokens = ValueTokens(
        values=values,
        old_values=torch.tensor([0.9, 0.0, 0.0]),
        returns=torch.tensor([2.0, 2.0, 1e6]),
        weights=torch.tensor([0.5, 0.5, 0.0]),
        answer_weights=torch.tensor([1.0, 0.0]),
    )
    result = value_loss(tokens, SETTINGS)
    # 1 within the range: (1 - 2)^2; 1 clipped to 0.2 is farther from 2: (0.2 - 2)^2 = 3.24, no gradient.
    assert result.loss.item() == pytest.approx(0.5 * (1 / 2 + 3.24 / 2) / 2)
    assert result.metrics["value_loss"].item() == pytest.approx(result.loss.item())
    (gradient,) = torch.autograd.grad(result.loss, values)
    assert gradient.tolist() == pytest.approx([-0.25, 0.0, 0.0])


def test_explained_variance_by_hand():
    returns, weights = torch.tensor([0.0, 2.0, 4.0, math.nan]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert explained_variance(returns, returns, weights) == 1
    assert explained_variance(torch.full((4,), 7.0), returns, weights) == pytest.approx(0)
    # Residuals 0, 1, 2 have a quarter of the variance.
    assert explained_variance(torch.tensor([0.0, 1.0, 2.0, 0.0]), returns, weights) == pytest.approx(0.75)
    assert math.isnan(explained_variance(returns[:2], torch.ones(2), torch.ones(2)))
