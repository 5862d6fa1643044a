"""The gap between the engine that drew the tokens and the trainer."""

from __future__ import annotations

from torch import Tensor

__all__ = ["importance_weights"]


def importance_weights(old_logps: Tensor, engine_logps: Tensor, cap: float) -> Tensor:
    """min(pi_old / pi_engine, cap) of each token, [A], without gradient.

    Truncated importance sampling (Yao et al., "Your efficient RL framework secretly brings you off-policy RL
    training", 2025).

    Args:
        old_logps: of the policy that the iteration began with, by the trainer.
        engine_logps: of the same weights, by the engine.
        cap: > 0; bounds the variance.
    """
    return (old_logps - engine_logps).detach().exp().clamp(max=cap)
