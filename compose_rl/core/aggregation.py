"""What a token weighs in a loss.

A loss is sum(weights * losses) / answers that count. The weights are made once for a whole minibatch, of all
ranks; then microbatches whose losses are weighed by their own answers that count add up to the minibatch's
loss, however it is cut.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["answer_means", "expand", "token_weights", "weighted_mean"]


def token_weights(
    answer_lengths: Tensor,
    answer_weights: Tensor,
    aggregation: Literal["sequence_mean", "token_mean", "constant"],
    max_gen_len: int,
) -> Tensor:
    """float32 [A] for the tokens of a minibatch's answers, one answer after the other.

    ``sequence_mean``: mean over answers of the mean over their tokens. ``token_mean``: mean over all tokens
    (DAPO, arXiv 2503.14476). ``constant``: mean over answers of their tokens' sum / ``max_gen_len``
    (Dr. GRPO, arXiv 2503.20783).

    Args:
        answer_lengths: int64 [n], tokens.
        answer_weights: [n]: 0 for an answer that is not learnt from, else 1.
        max_gen_len: tokens of the longest answer there can be.
    """
    lengths = answer_lengths.to(torch.float64)
    counts = answer_weights.to(torch.float64)
    if aggregation == "sequence_mean":
        each = counts / lengths.clamp(min=1)
    elif aggregation == "token_mean":
        each = counts * (counts.sum() / (counts * lengths).sum().clamp(min=1))
    else:
        each = counts / max_gen_len
    return expand(each.float(), answer_lengths)


def expand(per_answer: Tensor, answer_lengths: Tensor) -> Tensor:
    """[n] -> [A]: an answer's value at each of its tokens."""
    return torch.repeat_interleave(per_answer, answer_lengths)


def weighted_mean(values: Tensor, weights: Tensor, answer_weights: Tensor) -> Tensor:
    """sum(weights * values) / answers that count (at least 1): a scalar.

    Args:
        values, weights: of tokens, [A], or of answers, [n].
        answer_weights: [n]: 0 for an answer that does not count, else 1.
    """
    return (weights * values).sum() / (answer_weights > 0).sum().clamp(min=1)


def answer_means(values: Tensor, answer_ids: Tensor, answers: int) -> Tensor:
    """Mean of ``values`` [A] over the tokens of each answer: [answers]; 0 for an answer without tokens."""
    sums = values.new_zeros(answers).index_add(0, answer_ids, values)
    lengths = torch.bincount(answer_ids, minlength=answers)
    return sums / lengths.clamp(min=1)
