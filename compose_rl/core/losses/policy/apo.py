"""A*-PO: regression on the optimal advantage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from compose_rl.core.losses.policy.terms import answer_mean, policy_output
from compose_rl.core.losses.policy.types import PolicyTokens
from compose_rl.core.losses.types import LossOutput

if TYPE_CHECKING:
    from compose_rl.config.online_rl import OnlineRLSettings

__all__ = ["apo"]


def apo(tokens: PolicyTokens, settings: OnlineRLSettings) -> LossOutput:
    """(beta sum_t (log pi - log pi_ref) - (R - V*))^2, mean over answers.

    Brantley et al., arXiv 2505.20686. ``beta``, the paper's beta_2, is its pull towards the reference; no
    other KL is added. V* is estimated with a beta of its own: ``core/advantages/optimal_value.py``.

    Raises:
        ValueError: rewards, V* or the reference's log-probabilities are missing.
    """
    if tokens.ref_logps is None or tokens.rewards is None or tokens.vstar is None:
        raise ValueError("apo needs ref_logps, rewards and vstar")
    ratios = torch.zeros_like(tokens.rewards, dtype=tokens.logps.dtype)
    ratios = ratios.index_add(0, tokens.answer_ids, tokens.logps - tokens.ref_logps)
    errors = settings.beta * ratios - (tokens.rewards - tokens.vstar)
    never = torch.zeros_like(tokens.logps, dtype=torch.bool)
    return policy_output(answer_mean(errors.square(), tokens), never, tokens, settings)
