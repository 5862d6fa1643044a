"""Estimates of a KL divergence from samples (Schulman, "Approximating KL divergence", 2020).

One direction everywhere: KL(p || q) = E_p[log p - log q] with tokens drawn from p. With
r = log q - log p of a drawn token:
    k1 = -r                 unbiased, high variance, may be negative
    k2 = r^2 / 2            biased, low variance, never negative
    k3 = exp(r) - 1 - r     unbiased, low variance, never negative
    k3_offpolicy = 1 - exp(r)   no estimate of a divergence: its mean under p is 0

``k3_offpolicy`` is the factor of grad log p in the gradient of k3. As a penalty in the rewards its expected
policy gradient is that of k3 in the loss: grad KL(q || p), q being the reference. Differentiated itself it
drives p away from q, and k1 has an expected gradient of 0: neither belongs in a loss.
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
    """1 - exp(r); for the rewards only."""
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
