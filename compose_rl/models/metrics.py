"""Metrics of evaluation loops."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["RowMean"]


class RowMean(Metric):
    """Mean over rows (pairs, completions) of what a model already averaged over each batch.

    Args:
        of: name of the figure in the model's outputs.
    """

    full_state_update = False

    def __init__(self, of: str) -> None:
        super().__init__()
        self.of = of
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, mean: Tensor, rows: Tensor) -> None:
        if rows:
            self.total += mean.double() * rows
            self.rows += rows

    def compute(self) -> Tensor:
        return self.total / self.rows
