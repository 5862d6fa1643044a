"""Truncated importance sampling."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from compose_rl.core.importance import importance_weights  # noqa: E402


def test_weights_by_hand():
    old = torch.tensor([math.log(0.2), math.log(0.8), -1.0], requires_grad=True)
    weights = importance_weights(old, torch.tensor([math.log(0.4), math.log(0.1), -1.0]), cap=2.0)
    assert weights.tolist() == pytest.approx([0.5, 2.0, 1.0])
    assert not weights.requires_grad
