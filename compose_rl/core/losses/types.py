"""What goes into a loss and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ["LabelledScores", "LossOutput", "PairLogps", "PairScores", "UnpairedLogps"]


@dataclass(frozen=True, kw_only=True)
class PairLogps:
    """Log-probabilities of the two answers of each of B prompts.

    Log-probabilities are float [B], sums over an answer's tokens (its end token included, the prompt not);
    lengths are int64 [B]. Without a reference the reference's log-probabilities are zeros.
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    chosen_length: Tensor
    """Tokens of the chosen answer, those that the sum runs over."""
    rejected_length: Tensor
    prompt_length: Tensor | None = None
    """Tokens of the prompt; only the SFT term of ``compat`` reads it."""
    chosen_reward: Tensor | None = None
    """float [B]; ``rpo``, ``rcdpo`` and ``rebel`` need it."""
    rejected_reward: Tensor | None = None
    kl: Tensor | None = None
    """``kto`` only: what ``kto_kl`` gives, one number for the whole batch of all ranks, without gradient."""


@dataclass(frozen=True, kw_only=True)
class UnpairedLogps:
    """Log-probabilities of B single completions, each labelled desirable or not; shapes as in PairLogps."""

    policy: Tensor
    ref: Tensor
    desirable: Tensor
    """bool [B]"""
    length: Tensor
    kl: Tensor
    """What ``kto_kl`` gives: a scalar without gradient."""


@dataclass(frozen=True, kw_only=True)
class PairScores:
    """Scores of the two answers of each of B prompts, float [B]."""

    chosen: Tensor
    rejected: Tensor


@dataclass(frozen=True, kw_only=True)
class LabelledScores:
    """Scores (logits) of B texts and their labels in [0, 1], float [B] or [B, n_labels]."""

    scores: Tensor
    labels: Tensor


@dataclass(frozen=True)
class LossOutput:
    """A loss to differentiate and what to log of it."""

    loss: Tensor
    """Scalar: the mean over the rows (pairs, completions, texts) given."""
    metrics: Mapping[str, Tensor]
    """Scalars without gradient, means over the same rows, so that they combine like the loss."""
