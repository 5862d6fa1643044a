"""An iteration's advantages brought to mean 0 and variance 1."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["whiten"]

_EPSILON = 1e-8


def whiten(values: Tensor, weights: Tensor) -> Tensor:
    """(x - mean) / sqrt(variance + 1e-8), float32 [A], over all of an iteration.

    Args:
        values: [A], of all ranks.
        weights: [A], what each counts in mean and variance; where it is 0 the result is 0.
    """
    counts = weights > 0
    exact = torch.where(counts, values.double(), 0.0)
    shares = weights.double() / weights.double().sum().clamp(min=torch.finfo(torch.float64).tiny)
    centred = exact - (shares * exact).sum()
    variance = (shares * centred.square()).sum()
    return torch.where(counts, centred * (variance + _EPSILON).rsqrt(), 0.0).float()
