"""Metrics of reward models, summed over batches and processes."""

from __future__ import annotations

from typing import Any

import torch
from torchmetrics import Metric

__all__ = [
    "METRICS",
    "ClassifierCalibrationError",
    "ClassifierRewardAccuracy",
    "PairwiseCalibrationError",
    "PairwiseRewardAccuracy",
    "PairwiseRewardMargin",
]

_BINS = 10


class _Mean(Metric):
    """A mean over rows; subclasses say of what."""

    full_state_update = False
    total: torch.Tensor
    count: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", default=torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def _add(self, values: torch.Tensor) -> None:
        self.total += values.double().sum()
        self.count += values.numel()

    def compute(self) -> torch.Tensor:
        return (self.total / self.count).float()


class PairwiseRewardAccuracy(_Mean):
    """Share of pairs whose chosen answer scores higher; a tie is half right."""

    def update(self, scores: torch.Tensor, labels: torch.Tensor | None = None) -> None:
        """``scores`` [2B]: chosen, rejected of pair 0, of pair 1, ..."""
        self._add((torch.sign(_margins(scores)) + 1) / 2)


class PairwiseRewardMargin(_Mean):
    """Mean score of the chosen answer over the rejected one's."""

    def update(self, scores: torch.Tensor, labels: torch.Tensor | None = None) -> None:
        """``scores`` as in :class:`PairwiseRewardAccuracy`."""
        self._add(_margins(scores))


class ClassifierRewardAccuracy(_Mean):
    """Share of labels on whose side of 1/2 the predicted probability lies."""

    def update(self, scores: torch.Tensor, labels: torch.Tensor) -> None:
        """``scores`` are logits; both are [B] or [B, n_labels]."""
        self._add(((scores > 0) == (labels > 0.5)).double())


class _CalibrationError(Metric):
    """Expected calibration error (Guo et al., arXiv 1706.04599, eq. 3) over ten equal parts of [0, 1]."""

    full_state_update = False
    gaps: torch.Tensor
    count: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("gaps", default=torch.zeros(_BINS, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def _add(self, probabilities: torch.Tensor, outcomes: torch.Tensor) -> None:
        probabilities, outcomes = probabilities.double().flatten(), outcomes.double().flatten()
        bins = (probabilities * _BINS).long().clamp(max=_BINS - 1)
        self.gaps.index_add_(0, bins, outcomes - probabilities)
        self.count += probabilities.numel()

    def compute(self) -> torch.Tensor:
        return (self.gaps.abs().sum() / self.count).float()


class PairwiseCalibrationError(_CalibrationError):
    """How far sigma(|margin|), the confidence in a preference, is from how often the preference is right."""

    def update(self, scores: torch.Tensor, labels: torch.Tensor | None = None) -> None:
        """``scores`` as in :class:`PairwiseRewardAccuracy`."""
        margins = _margins(scores.double())
        self._add(torch.sigmoid(margins.abs()), (torch.sign(margins) + 1) / 2)


class ClassifierCalibrationError(_CalibrationError):
    """How far the predicted probabilities are from how often the label is 1."""

    def update(self, scores: torch.Tensor, labels: torch.Tensor) -> None:
        """``scores`` are logits; both are [B] or [B, n_labels]."""
        self._add(torch.sigmoid(scores.double()), labels)


def _margins(scores: torch.Tensor) -> torch.Tensor:
    return scores[0::2] - scores[1::2]


METRICS: dict[str, type[Metric]] = {
    "pairwise_rm_accuracy": PairwiseRewardAccuracy,
    "pairwise_rm_margin": PairwiseRewardMargin,
    "pairwise_rm_calibration_error": PairwiseCalibrationError,
    "classifier_accuracy": ClassifierRewardAccuracy,
    "classifier_calibration_error": ClassifierCalibrationError,
}
"""By the name in LLM Foundry's registry."""
