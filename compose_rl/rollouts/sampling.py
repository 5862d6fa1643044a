"""Choice of tokens: the inverse of a distribution function at given uniform numbers.

So a token depends on its logits and its number alone, whatever else is in the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compose_rl.errors import UserError
from compose_rl.rollouts.types import Sampling

__all__ = ["draw", "uniform_numbers"]

_BLOCK = 256
"""Tokens whose weights are summed before any is looked at: a running sum over a whole vocabulary costs more
than its softmax."""
_NUCLEUS = 1024
"""Tokens looked at for ``top_p`` before all are sorted."""
_BELOW_ONE = 1 - 2**-53


def uniform_numbers(seed: int, count: int) -> Tensor:
    """float64 [count] in [0, 1): of a generator of their own, so that no other random state is touched."""
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def draw(logits: Tensor, numbers: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """A token for each row.

    Args:
        logits: [n, V]; overwritten where they are float32.
        numbers: float64 [n] in [0, 1).

    Returns:
        tokens int64 [n], and float32 [n] their log-probabilities under softmax(logits / temperature), before
        ``top_k`` and ``top_p``; at temperature 0 the likeliest token, whose probability is 1 then.

    Raises:
        UserError: a logit is NaN or infinite.
    """
    scaled = logits.float()
    if sampling.temperature == 0:
        highest, tokens = scaled.max(-1)
        _check_finite(highest)
        return tokens, torch.zeros_like(highest)
    if sampling.temperature != 1.0:
        scaled = scaled.div_(sampling.temperature)
    if sampling.top_k or sampling.top_p < 1:
        return _from_likeliest(scaled, numbers, sampling)
    return _from_all(scaled, numbers)


def _from_all(scaled: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    weights = scaled.sub_(scaled.amax(-1, keepdim=True)).exp_()
    sums = _block_sums(weights)
    edges = sums.cumsum(-1)
    total = edges[:, -1:]
    _check_finite(total)
    goal = _under(numbers[:, None] * total, total)
    block = torch.searchsorted(edges, goal, right=True)
    rest = goal - (edges - sums).gather(1, block)
    offsets = block * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    outside = offsets >= weights.size(1)
    inside = weights.gather(1, offsets.clamp(max=weights.size(1) - 1)).double()
    within = inside.masked_fill_(outside, 0.0).cumsum(-1)
    # The block's sum was rounded otherwise than this one.
    index = torch.searchsorted(within, _under(rest, within[:, -1:]), right=True)
    tokens = block * _BLOCK + index
    return tokens[:, 0], (weights.gather(1, tokens).double() / total).log()[:, 0].float()


def _block_sums(weights: Tensor) -> Tensor:
    """float64 [n, ceil(V / _BLOCK)]."""
    whole = weights.size(1) // _BLOCK
    sums = weights[:, : whole * _BLOCK].unflatten(1, (whole, _BLOCK)).sum(-1).double()
    if whole * _BLOCK == weights.size(1):
        return sums
    return torch.cat([sums, weights[:, whole * _BLOCK :].sum(-1, keepdim=True).double()], dim=1)


def _from_likeliest(scaled: Tensor, numbers: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    size = scaled.size(1)
    log_total = scaled.logsumexp(-1, keepdim=True)
    _check_finite(log_total)
    count = min(sampling.top_k or _NUCLEUS, size)
    logprobs, tokens = (scaled - log_total).topk(count)
    weights = logprobs.double().exp()
    if not sampling.top_k and count < size and bool((weights.sum(-1) < sampling.top_p).any()):
        logprobs, tokens = (scaled - log_total).sort(descending=True)
        weights = logprobs.double().exp()
    if sampling.top_k:
        weights = weights / weights.sum(-1, keepdim=True)
    # The token that reaches top_p belongs to the nucleus.
    weights = weights.masked_fill(weights.cumsum(-1) - weights >= sampling.top_p, 0.0)
    edges = weights.cumsum(-1)
    index = torch.searchsorted(edges, _under(numbers[:, None] * edges[:, -1:], edges[:, -1:]), right=True)
    return tokens.gather(1, index)[:, 0], logprobs.gather(1, index)[:, 0].float()


def _under(goal: Tensor, end: Tensor) -> Tensor:
    """``goal`` kept below the last edge, so that it falls on a token of positive weight."""
    return torch.minimum(goal, end * _BELOW_ONE)


def _check_finite(total: Tensor) -> None:
    if not bool(torch.isfinite(total).all()):
        raise UserError(
            "the policy's logits are NaN or infinite: training has diverged; lower the learning rate"
        )
