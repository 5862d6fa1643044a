"""Log-probabilities of target tokens from hidden states, without keeping logits that a memory budget does
not allow.

With z_i = (W h_i + b) / temperature, p_i = softmax(z_i) and e_i = sum_v p_iv W_v:
    log p_i = log p_i[t_i]
    dL/dh_i = g_i (W[t_i] - e_i) / temperature
    dL/dW_v = sum_i g_i (1[v = t_i] - p_iv) h_i / temperature
The gradient g_i that comes from above only scales rows, so e is computed in the forward while p_i is at
hand, and the backward needs p for dW alone: it is kept for as many rows as the budget allows and computed
again for the others. Where the output layer is frozen, nothing is kept.
"""

# torch is typed in part only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["MEMORY_BUDGET", "linear_logprobs"]

MEMORY_BUDGET = 2**30
"""Bytes of probabilities [rows, V] that a forward may keep for its backward, by default."""

_CHUNK_BYTES = 2**26
"""Size of the temporary [rows, V] where nothing is kept."""

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
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    dtype = weight.dtype
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    bias = None if bias is None else bias.to(dtype)
    settings = _Settings(temperature, memory_budget, torch.is_grad_enabled())
    with torch.autocast(hidden.device.type, enabled=False):
        out = _LinearLogprobs.apply(hidden.to(dtype), weight.to(dtype), targets, bias, settings)
    return cast(Tensor, out)


class _Settings(NamedTuple):
    temperature: float
    memory_budget: int
    differentiable: bool
    """Whether a backward may follow: inside a Function autograd is off and cannot tell."""


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, settings: _Settings
    ) -> Tensor:
        wanted: tuple[bool, ...] = ctx.needs_input_grad if settings.differentiable else (False,) * 5
        train_hidden, train_weight, _, train_bias, _ = wanted
        logprobs = torch.empty(len(targets), dtype=_softmax_dtype(weight), device=weight.device)
        expected = torch.empty_like(hidden) if train_hidden else None
        keep = _rows_to_keep(len(targets), weight, settings) if train_weight or train_bias else 0
        kept = weight.new_empty(keep, weight.size(0))
        for rows in _blocks(len(targets), keep, weight):
            block = kept[rows] if rows.stop <= keep else None
            probabilities = _probabilities(hidden[rows], weight, bias, settings.temperature, out=block)
            logprobs[rows] = probabilities.gather(1, targets[rows, None]).squeeze(1).log()
            if expected is not None:
                torch.mm(probabilities.to(weight.dtype), weight, out=expected[rows])
        _mend_underflow(logprobs, hidden, weight, bias, targets, settings.temperature)
        ctx.save_for_backward(hidden, weight, targets, bias, expected, kept)
        ctx.settings = settings
        return logprobs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, bias, expected, kept = ctx.saved_tensors
        scales = (grad_outputs[0] / ctx.settings.temperature)[:, None]
        grad_hidden = None
        if expected is not None:
            grad_hidden = ((weight[targets] - expected) * scales).to(hidden.dtype)
        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[3]):
            return grad_hidden, None, None, None, None
        grad_weight = torch.zeros_like(weight, dtype=scales.dtype)
        grad_bias = None if bias is None else torch.zeros_like(bias, dtype=scales.dtype)
        pulls = (hidden * scales).to(hidden.dtype)
        for rows in _blocks(len(targets), len(kept), weight):
            if rows.stop <= len(kept):
                probabilities = kept[rows]
            else:
                probabilities = _probabilities(hidden[rows], weight, bias, ctx.settings.temperature)
            _subtract_product(grad_weight, probabilities.to(weight.dtype).t(), pulls[rows])
            if grad_bias is not None:
                grad_bias -= (probabilities * scales[rows]).sum(0)
        grad_weight.index_add_(0, targets, pulls.to(grad_weight.dtype))
        if grad_bias is not None:
            grad_bias = grad_bias.index_add_(0, targets, scales[:, 0]).to(weight.dtype)
        return grad_hidden, grad_weight.to(weight.dtype), None, grad_bias, None


def _softmax_dtype(weight: Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def _in_place(weight: Tensor) -> bool:
    """Whether the softmax can overwrite its logits: the CPU kernel may, and then a block costs no
    temporary.
    """
    return weight.device.type == "cpu" and weight.dtype == _softmax_dtype(weight)


def _rows_to_keep(rows: int, weight: Tensor, settings: _Settings) -> int:
    return min(rows, settings.memory_budget // (weight.size(0) * weight.element_size()))


def _blocks(rows: int, keep: int, weight: Tensor) -> Iterator[slice]:
    """The kept rows first, in one block where that needs no temporary, since large products are the
    fastest.
    """
    step = max(1, _CHUNK_BYTES // (weight.size(0) * 4))
    for start, stop, size in (0, keep, max(keep, 1) if _in_place(weight) else step), (keep, rows, step):
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
    for part in bad.split(max(1, _CHUNK_BYTES // (weight.size(0) * 4))):
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
