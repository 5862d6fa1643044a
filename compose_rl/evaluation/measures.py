"""The figures of an evaluation, from scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from compose_rl.core.stats import bootstrap_mean, win_rate, wins

__all__ = ["Interval", "Sides", "figures", "pair_figures"]


@dataclass(frozen=True)
class Interval:
    """How intervals are made."""

    confidence: float
    resamples: int
    seed: int


@dataclass(frozen=True)
class Sides:
    """A judgement [N] of the answers of both models to the same prompts."""

    policy: Tensor
    baseline: Tensor


def pair_figures(name: str, chosen: Tensor, rejected: Tensor) -> dict[str, float]:
    """How often ``chosen`` [N] is above ``rejected`` [N], ties counted half, and by how much on average."""
    margins = chosen - rejected
    return {
        f"{name}/accuracy": wins(chosen, rejected).mean().item(),
        f"{name}/margin": margins.mean().item(),
    }


def figures(judgements: Mapping[str, Sides], interval: Interval) -> dict[str, float]:
    """Of each judge: both models' means, and the policy's win rate with its interval."""
    result: dict[str, float] = {}
    settings = {"confidence": interval.confidence, "resamples": interval.resamples, "seed": interval.seed}
    for judge, sides in judgements.items():
        result[f"{judge}/policy"] = sides.policy.mean().item()
        result[f"{judge}/baseline"] = sides.baseline.mean().item()
        rate = win_rate(sides.policy, sides.baseline, **settings)
        result |= _estimate(f"win_rate/{judge}", rate.mean, rate.low, rate.high)
    return result


def kl_figures(policy: Tensor, baseline: Tensor, interval: Interval) -> dict[str, float]:
    """KL(policy || baseline) of whole answers, in nats: the mean of log policy(y) - log baseline(y) over the
    policy's samples y.

    Args:
        policy: log policy(y) [N] of answers sampled from the policy.
        baseline: log baseline(y) [N] of the same answers.
    """
    estimate = bootstrap_mean(
        policy - baseline, confidence=interval.confidence, resamples=interval.resamples, seed=interval.seed
    )
    return _estimate("kl/policy_baseline", estimate.mean, estimate.low, estimate.high)


def _estimate(name: str, mean: float, low: float, high: float) -> dict[str, float]:
    return {name: mean, f"{name}_low": low, f"{name}_high": high}
