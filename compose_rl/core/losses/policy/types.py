"""What goes into a loss of online RL."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["PolicyTokens", "ValueTokens"]


@dataclass(frozen=True, kw_only=True)
class PolicyTokens:
    """The A tokens of n answers, one answer after the other: what a policy loss reads.

    Per token: float32 [A]; per answer: [n]. Log-probabilities are all of the same temperature.
    """

    logps: Tensor
    """Of the policy that is trained, with gradient."""
    old_logps: Tensor
    """Of the policy that the iteration began with."""
    advantages: Tensor
    weights: Tensor
    """Of a token in the loss, which is sum(weights * losses) / number of answers that count. See
    ``core/aggregation.py``."""
    answer_ids: Tensor
    """int64 [A]: the answer of each token."""
    answer_weights: Tensor
    """float32 [n]: 0 for an answer that is not learnt from, else 1. What is given of it must be finite."""
    ref_logps: Tensor | None = None
    engine_logps: Tensor | None = None
    """Of the engine that sampled the tokens."""
    entropies: Tensor | None = None
    """Of the distribution that each token was drawn from, with gradient."""
    kl_coef: Tensor | None = None
    """Scalar: weight of KL to the reference in the loss."""
    rewards: Tensor | None = None
    """[n]: of the whole answer; ``apo`` reads it."""
    vstar: Tensor | None = None
    """[n]: the optimal value of the answer's prompt; ``apo`` reads it."""


@dataclass(frozen=True, kw_only=True)
class ValueTokens:
    """What the value loss reads, [A] each: values of the state before each token."""

    values: Tensor
    """With gradient."""
    old_values: Tensor
    returns: Tensor
    weights: Tensor
    answer_weights: Tensor
