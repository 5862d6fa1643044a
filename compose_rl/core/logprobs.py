"""Log-probabilities of target tokens, and entropies, from hidden states, without keeping logits that a memory
budget does not allow.

With z_i = (W h_i + b) / temperature, p_i = softmax(z_i) and e_i = sum_v p_iv W_v:
    log p_i = log p_i[t_i]
    dL/dh_i = g_i (W[t_i] - e_i) / temperature
    dL/dW_v = sum_i g_i (1[v = t_i] - p_iv) h_i / temperature
The gradient g_i that comes from above only scales rows, so e is computed in the forward while p_i is at
hand, and the backward needs p for dW alone: it is kept for as many rows as the budget allows and computed
again for the others. Where the output layer is frozen, nothing is kept.

The entropy H_i = -sum_v p_iv log p_iv costs a pass over p_i while it is at hand. With the gradient k_i from
above, and s_iv = -p_iv log p_iv:
    dL/dz_iv = k_i (s_iv - H_i p_iv)
which the backward adds where the entropy has a gradient; most often it is only looked at, and then it changes
nothing there.
"""

# torch is typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["MEMORY_BUDGET", "linear_logprobs", "linear_logprobs_and_entropies"]

MEMORY_BUDGET = 2**30
"""Bytes of probabilities [rows, V] that a forward may keep for its backward, by default."""

_CHUNK_BYTES = 2**26
"""Size of the temporary [rows, V] where nothing is kept."""

_CACHE_BYTES = 2**20
"""What a CPU's core has close by: several passes over a part of this size read memory once."""

_LOG_UNDERFLOW = -80.0
"""Below this a float32 probability has lost digits, and the logarithm is computed from the logits."""


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> Tensor:
    """Log-probabilities of `targets` under softmax((hidden weight^T + bias) / temperature).

    Softmax and sums are float32 (float64 for float64 inputs); under autocast the products are of its dtype.

    Args:
        hidden: [A, H].
        weight: [V, H].
        targets: int64 [A].
        temperature: > 0.
        bias: [V].
        memory_budget: bytes that may be kept for the backward.

    Returns:
        float32 [A] (float64 for float64 inputs).

    Raises:
        ValueError: temperature is not positive.
    """
    settings = _Settings(temperature, memory_budget, torch.is_grad_enabled(), entropies=False)
    return _apply(hidden, weight, targets, bias, settings)[0]


def linear_logprobs_and_entropies(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> tuple[Tensor, Tensor]:
    """As :func:`linear_logprobs`, and the entropy of the distribution that each target was drawn from.

    Returns:
        Log-probabilities and entropies in nats, float32 [A] each (float64 for float64 inputs). Both have
        gradients; that of the entropies costs nothing unless it is used.
    """
    settings = _Settings(temperature, memory_budget, torch.is_grad_enabled(), entropies=True)
    logprobs, entropies = _apply(hidden, weight, targets, bias, settings)
    return logprobs, cast(Tensor, entropies)


class _Settings(NamedTuple):
    temperature: float
    memory_budget: int
    differentiable: bool
    """Whether a backward may follow: inside a Function autograd is off and cannot tell."""
    entropies: bool


def _apply(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, settings: _Settings
) -> tuple[Tensor, Tensor | None]:
    if settings.temperature <= 0:
        raise ValueError(f"temperature must be positive, got {settings.temperature}")
    dtype = weight.dtype
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    bias = None if bias is None else bias.to(dtype)
    with torch.autocast(hidden.device.type, enabled=False):
        out = _LinearLogprobs.apply(hidden.to(dtype), weight.to(dtype), targets, bias, settings)
    return cast(tuple[Tensor, Tensor | None], out)


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, settings: _Settings
    ) -> tuple[Tensor, Tensor | None]:
        wanted: tuple[bool, ...] = ctx.needs_input_grad if settings.differentiable else (False,) * 5
        train_hidden, train_weight, _, train_bias, _ = wanted
        logprobs = torch.empty(len(targets), dtype=_softmax_dtype(weight), device=weight.device)
        entropies = torch.empty_like(logprobs) if settings.entropies else None
        expected = torch.empty_like(hidden) if train_hidden else None
        keep = _rows_to_keep(len(targets), weight, settings) if train_weight or train_bias else 0
        kept = weight.new_empty(keep, weight.size(0))
        for rows in _blocks(len(targets), keep, weight, temporary=False):
            block = kept[rows] if rows.stop <= keep else None
            probabilities = _probabilities(hidden[rows], weight, bias, settings.temperature, out=block)
            logprobs[rows] = probabilities.gather(1, targets[rows, None]).squeeze(1).log()
            if entropies is not None:
                entropies[rows] = _entropies(probabilities)
            if expected is not None:
                torch.mm(probabilities.to(weight.dtype), weight, out=expected[rows])
        _mend_underflow(logprobs, hidden, weight, bias, targets, settings.temperature)
        ctx.save_for_backward(hidden, weight, targets, bias, expected, kept, entropies)
        ctx.settings = settings
        ctx.set_materialize_grads(False)  # So that the backward knows which result was used.
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, bias, expected, _, entropies = ctx.saved_tensors
        temperature = ctx.settings.temperature
        pulls, spreads = (None if g is None else (g / temperature)[:, None] for g in grad_outputs)
        if pulls is None:
            pulls = torch.zeros(len(targets), 1, dtype=_softmax_dtype(weight), device=weight.device)
        grad_hidden = None
        if expected is not None:
            grad_hidden = (weight[targets] - expected if spreads is None else weight[targets]) * pulls
        output = None
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[3]:
            output = _OutputGradients(weight, bias, pulls.dtype)
        if output is None and spreads is None:
            return _like(grad_hidden, hidden), None, None, None, None
        pulled = (hidden * pulls).to(hidden.dtype)
        ones = torch.ones_like(pulls)
        for rows, probabilities in _probabilities_again(ctx, temporary=spreads is not None):
            factors = probabilities, pulled[rows], pulls[rows]
            if spreads is not None:
                falls = _falls(probabilities, pulls[rows], spreads[rows], entropies[rows, None])
                factors = falls, hidden[rows], ones[rows]
                if grad_hidden is not None:
                    _subtract_product(grad_hidden[rows], falls.to(weight.dtype), weight)
            if output is not None:
                output.subtract(*factors)
        if output is None:
            return _like(grad_hidden, hidden), None, None, None, None
        output.add_targets(targets, pulled, pulls)
        return (
            _like(grad_hidden, hidden),
            _like(output.weight, weight),
            None,
            _like(output.bias, weight),
            None,
        )


def _probabilities_again(ctx: Any, *, temporary: bool) -> Iterator[tuple[slice, Tensor]]:
    """The softmax in blocks: what was kept, and the rest computed once more."""
    hidden, weight, _, bias, _, kept, _ = ctx.saved_tensors
    for rows in _blocks(len(hidden), len(kept), weight, temporary=temporary):
        if rows.stop <= len(kept):
            yield rows, kept[rows]
        else:
            yield rows, _probabilities(hidden[rows], weight, bias, ctx.settings.temperature)


class _OutputGradients:
    """Gradients of the output layer, summed in `dtype`."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self.weight = torch.zeros_like(weight, dtype=dtype)
        self.bias = None if bias is None else torch.zeros_like(bias, dtype=dtype)

    def subtract(self, slopes: Tensor, hidden: Tensor, scales: Tensor) -> None:
        """Slopes [rows, V], whose rows are scaled already in `hidden`; by `scales` [rows, 1] for the bias."""
        _subtract_product(self.weight, slopes.to(hidden.dtype).t(), hidden)
        if self.bias is not None:
            self.bias -= (slopes * scales).sum(0)

    def add_targets(self, targets: Tensor, pulled: Tensor, pulls: Tensor) -> None:
        self.weight.index_add_(0, targets, pulled.to(self.weight.dtype))
        if self.bias is not None:
            self.bias.index_add_(0, targets, pulls[:, 0])


def _falls(probabilities: Tensor, pulls: Tensor, spreads: Tensor, entropies: Tensor) -> Tensor:
    """-dL/dz [rows, V], without what falls on the targets alone."""
    probabilities = probabilities.to(pulls.dtype)
    return probabilities * (pulls + spreads * entropies) - spreads * _surprises(probabilities)


def _surprises(probabilities: Tensor) -> Tensor:
    """-p log p, 0 where p is 0."""
    least = torch.finfo(probabilities.dtype).tiny
    return probabilities.clamp(min=least).log_().mul_(probabilities).neg_()


def _entropies(probabilities: Tensor) -> Tensor:
    limit = _CACHE_BYTES if probabilities.device.type == "cpu" else _CHUNK_BYTES
    parts = probabilities.split(_rows_at_once(probabilities.size(1), limit))
    return torch.cat([_surprises(part).sum(1) for part in parts])


def _like(gradient: Tensor | None, argument: Tensor) -> Tensor | None:
    return None if gradient is None else gradient.to(argument.dtype)


def _softmax_dtype(weight: Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def _in_place(weight: Tensor) -> bool:
    """Whether the softmax can overwrite its logits: the CPU kernel may, and then a block costs no
    temporary.
    """
    return weight.device.type == "cpu" and weight.dtype == _softmax_dtype(weight)


def _rows_to_keep(rows: int, weight: Tensor, settings: _Settings) -> int:
    return min(rows, settings.memory_budget // (weight.size(0) * weight.element_size()))


def _rows_at_once(vocabulary: int, limit: int) -> int:
    return max(1, limit // (vocabulary * 4))


def _blocks(rows: int, keep: int, weight: Tensor, *, temporary: bool) -> Iterator[slice]:
    """The kept rows first, in one block where that needs no temporary, since large products are the
    fastest.
    """
    step = _rows_at_once(weight.size(0), _CHUNK_BYTES)
    whole = _in_place(weight) and not temporary
    for start, stop, size in (0, keep, max(keep, 1) if whole else step), (keep, rows, step):
        for first in range(start, stop, size):
            yield slice(first, min(first + size, stop))


def _probabilities(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, out: Tensor | None = None
) -> Tensor:
    """softmax [rows, V] in its own dtype; with `out` given a copy in the weight's dtype is left there."""
    logits = _logits(hidden, weight, bias, temperature, out if _in_place(weight) else None)
    if _in_place(weight):
        return torch.softmax(logits, dim=-1, out=logits)
    probabilities = torch.softmax(logits, dim=-1, dtype=_softmax_dtype(weight))
    if out is not None:
        out.copy_(probabilities)
    return probabilities


def _logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, out: Tensor | None = None
) -> Tensor:
    logits = torch.mm(hidden, weight.t(), out=out)
    if bias is not None:
        logits += bias
    if temperature != 1.0:
        logits /= temperature
    return logits


def _mend_underflow(
    logprobs: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float,
) -> None:
    """Compute rows whose probability is too small for its dtype from their logits."""
    bad = (logprobs < _LOG_UNDERFLOW).nonzero().squeeze(1)
    for part in bad.split(_rows_at_once(weight.size(0), _CHUNK_BYTES)):
        if len(part):
            logits = _logits(hidden[part], weight, bias, temperature).to(logprobs.dtype)
            exact = torch.log_softmax(logits, dim=-1)
            logprobs[part] = exact.gather(1, targets[part, None]).squeeze(1)


def _subtract_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total -= left @ right, accumulated in the dtype of `total`."""
    if left.dtype == total.dtype:
        total.addmm_(left, right, alpha=-1)
    else:
        total -= left @ right
