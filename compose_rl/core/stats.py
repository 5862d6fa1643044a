"""Statistics of an evaluation: intervals by bootstrap, win rate, calibration."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "Estimate",
    "bootstrap_mean",
    "expected_calibration_error",
    "margin_calibration_error",
    "masked_mean",
    "win_rate",
    "wins",
]

_RESAMPLED_AT_ONCE = 1 << 22
"""Elements of one block of resamples: 32 MiB of indices."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval."""

    mean: float
    low: float
    high: float


def bootstrap_mean(
    values: Tensor, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Mean of ``values`` [N] with a percentile bootstrap interval (Efron, 1979).

    Args:
        confidence: share of resampled means inside the interval.
        seed: the same seed and values give the same interval.

    Raises:
        ValueError: there are no values, or one is not finite.
    """
    values = values.detach().double().flatten().cpu()
    if values.numel() == 0 or not bool(values.isfinite().all()):
        raise ValueError(
            f"a mean needs finite values; got {values.numel()}, finite: {int(values.isfinite().sum())}"
        )
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, _RESAMPLED_AT_ONCE // values.numel())
    means: list[Tensor] = []
    for start in range(0, resamples, rows):
        shape = (min(rows, resamples - start), values.numel())
        means.append(values[torch.randint(values.numel(), shape, generator=generator)].mean(dim=1))
    tail = (1 - confidence) / 2
    pooled = torch.cat(means)
    low, high = torch.quantile(pooled, tail).item(), torch.quantile(pooled, 1 - tail).item()
    return Estimate(values.mean().item(), low, high)


def wins(scores: Tensor, baseline: Tensor) -> Tensor:
    """1 where ``scores`` [N] beats ``baseline`` [N], 0 where it loses, 0.5 where equal: float64 [N]."""
    return ((scores > baseline).double() + (scores >= baseline).double()) / 2


def win_rate(
    scores: Tensor, baseline: Tensor, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Share of comparisons won, a tie being half a win, with its bootstrap interval over comparisons.

    Raises:
        ValueError: there are no comparisons, the shapes differ, or a score is not finite.
    """
    if scores.shape != baseline.shape:
        raise ValueError(f"scores {tuple(scores.shape)} and baseline {tuple(baseline.shape)} differ in shape")
    if not bool(scores.isfinite().all() and baseline.isfinite().all()):
        raise ValueError("a win rate needs finite scores")
    return bootstrap_mean(wins(scores, baseline), confidence=confidence, resamples=resamples, seed=seed)


def expected_calibration_error(probabilities: Tensor, outcomes: Tensor, *, bins: int = 10) -> float:
    """Distance between how likely events were said to be and how often they happened.

    Guo et al., arXiv 1706.04599, eq. 3: over ``bins`` equal parts of [0, 1], the sum of (share of events in
    the bin) times |share that happened - mean probability|.

    Args:
        probabilities: [N] in [0, 1].
        outcomes: [N], 1 where the event happened, else 0.

    Raises:
        ValueError: there are no events, or a probability is not in [0, 1].
    """
    probabilities, outcomes = probabilities.detach().double().flatten(), outcomes.detach().double().flatten()
    if probabilities.numel() == 0 or not bool(((probabilities >= 0) & (probabilities <= 1)).all()):
        raise ValueError(f"calibration needs probabilities in [0, 1], got {probabilities.numel()} values")
    which = (probabilities * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64, device=probabilities.device)
    gaps.index_add_(0, which, outcomes - probabilities)
    return (gaps.abs().sum() / probabilities.numel()).item()


def margin_calibration_error(margins: Tensor, *, bins: int = 10) -> float:
    """Calibration of a reward model's preferences, from margins s(chosen) - s(rejected) [N].

    The answer it prefers is said to be better with probability sigma(|margin|), and is where margin > 0; a
    margin of 0 is half right. The confidences fill the upper half of the bins.
    """
    return expected_calibration_error(
        torch.sigmoid(margins.double().abs()), wins(margins, torch.zeros_like(margins)), bins=bins
    )


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask`` (bool, same shape) holds, a scalar; others, NaN too, don't count.

    Raises:
        ValueError: the mask is empty.
    """
    chosen = values[mask]
    if chosen.numel() == 0:
        raise ValueError("a masked mean needs at least one value inside the mask")
    return chosen.mean()
