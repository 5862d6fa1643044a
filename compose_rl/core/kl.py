"""Estimates of a KL divergence from samples (Schulman, "Approximating KL divergence", 2020).

One direction everywhere: KL(p || q) = E_p[log p - log q] with tokens drawn from p. With
r = log q - log p of a drawn token:
    k1 = -r                 unbiased, high variance, may be negative
    k2 = r^2 / 2            biased, low variance, never negative
    k3 = exp(r) - 1 - r     unbiased, low variance, never negative
    k3_offpolicy = 1 - exp(r)   no estimate of a divergence: its mean under p is 0

What an estimate is worth as an estimate says nothing of the gradient that it leads to, q being the reference
(``tests/core/test_kl.py`` has each from the exact expectation). Differentiated itself, in the loss:
    k1 0; k2 grad KL(p || q); k3 grad KL(q || p); k3_offpolicy -grad KL(q || p)
As a penalty in the rewards it multiplies grad log p of its own token:
    k1 grad KL(p || q); k3_offpolicy grad KL(q || p); k3 the difference of the two, and k2 something alike:
    both vanish faster than the distance to the reference, and hold nothing near it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

__all__ = ["KL_ESTIMATORS", "estimate_kl"]


def k1(log_ratio: Tensor) -> Tensor:
    """-r."""
    return -log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """r^2 / 2; its gradient under p is that of KL(p || q)."""
    return log_ratio.square() / 2


def k3(log_ratio: Tensor) -> Tensor:
    """exp(r) - 1 - r."""
    return torch.expm1(log_ratio) - log_ratio


def k3_offpolicy(log_ratio: Tensor) -> Tensor:
    """1 - exp(r); for the rewards only: there it is what k3 is in the loss."""
    return -torch.expm1(log_ratio)


KL_ESTIMATORS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "k1": k1,
    "k2": k2,
    "k3": k3,
    "k3_offpolicy": k3_offpolicy,
}
"""Of r = log q - log p of tokens drawn from p, by ``kl_estimator``."""


def estimate_kl(logps: Tensor, other_logps: Tensor, estimator: str, clip_range: float) -> Tensor:
    """KL(p || q) in nats, token by token, in the shape of ``logps``.

    The KL to the reference, KL(policy || reference), has p = policy. What a pass changed, KL(old || new), has
    p = old, the policy that drew the tokens.

    Args:
        logps: log p of tokens drawn from p.
        other_logps: log q of the same tokens.
        estimator: a name in ``KL_ESTIMATORS``.
        clip_range: log-ratios are clipped to +- this, so that one token cannot outweigh all others.
    """
    return KL_ESTIMATORS[estimator]((other_logps - logps).clamp(-clip_range, clip_range))
