"""What the policy losses share: the importance weight, the KL term, the entropy bonus and the figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from compose_rl.core.aggregation import answer_means, weighted_mean
from compose_rl.core.importance import importance_weights
from compose_rl.core.kl import estimate_kl
from compose_rl.core.losses.policy.types import PolicyTokens
from compose_rl.core.losses.types import LossOutput

if TYPE_CHECKING:
    from compose_rl.config.online_rl import OnlineRLSettings

__all__ = ["answer_mean", "policy_gradient_output", "policy_output", "token_mean"]


def token_mean(values: Tensor, tokens: PolicyTokens) -> Tensor:
    """sum(weights * values) / answers that count: a scalar, as ``loss_aggregation`` says."""
    return weighted_mean(values, tokens.weights, tokens.answer_weights)


def answer_mean(values: Tensor, tokens: PolicyTokens) -> Tensor:
    """Mean of ``values`` [n] over the answers that count: a scalar."""
    return weighted_mean(values, tokens.answer_weights, tokens.answer_weights)


def policy_gradient_output(
    losses: Tensor, clipped: Tensor, tokens: PolicyTokens, settings: OnlineRLSettings
) -> LossOutput:
    """The loss of one whose tokens' losses are ``losses`` [A]; ``clipped`` bool [A]: where clipping binds."""
    cap = settings.importance_sampling_cap
    if cap is not None:
        if tokens.engine_logps is None:
            raise ValueError("importance_sampling_cap needs the engine's log-probabilities")
        losses = losses * importance_weights(tokens.old_logps, tokens.engine_logps, cap)
    return policy_output(token_mean(losses, tokens), clipped, tokens, settings)


def policy_output(
    policy_loss: Tensor, clipped: Tensor, tokens: PolicyTokens, settings: OnlineRLSettings
) -> LossOutput:
    """``policy_loss`` with KL term and entropy bonus, and what is logged.

    ``policy_loss`` and ``kl_loss`` are what they add to the loss. The others are means over answers of the
    mean over their tokens, whatever the aggregation: ``entropy`` (nats), ``clip_fraction`` and ``policy_kl``,
    KL(old || new) by k3.
    """
    loss, metrics = policy_loss, {"policy_loss": policy_loss}
    if settings.kl_place == "loss" and tokens.ref_logps is not None and tokens.kl_coef is not None:
        kl = estimate_kl(tokens.logps, tokens.ref_logps, settings.kl_estimator, settings.kl_clip_range)
        metrics["kl_loss"] = tokens.kl_coef * token_mean(kl, tokens)
        loss = loss + metrics["kl_loss"]
    if tokens.entropies is not None:
        metrics["entropy"] = _figure(tokens.entropies, tokens)
    if settings.entropy_loss_weight > 0:
        if tokens.entropies is None:
            raise ValueError("entropy_loss_weight needs the entropies")
        loss = loss - settings.entropy_loss_weight * token_mean(tokens.entropies, tokens)
    moved = estimate_kl(tokens.old_logps, tokens.logps, "k3", settings.kl_clip_range)
    metrics |= {"clip_fraction": _figure(clipped.float(), tokens), "policy_kl": _figure(moved, tokens)}
    return LossOutput(loss, {name: value.detach().float() for name, value in metrics.items()})


def _figure(values: Tensor, tokens: PolicyTokens) -> Tensor:
    answers = tokens.answer_weights.numel()
    return answer_mean(answer_means(values.detach(), tokens.answer_ids, answers), tokens)
