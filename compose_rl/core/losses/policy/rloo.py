"""REINFORCE, for advantages that leave one out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from compose_rl.core.losses.policy.terms import policy_gradient_output
from compose_rl.core.losses.policy.types import PolicyTokens
from compose_rl.core.losses.types import LossOutput

if TYPE_CHECKING:
    from compose_rl.config.online_rl import OnlineRLSettings

__all__ = ["rloo"]


def rloo(tokens: PolicyTokens, settings: OnlineRLSettings) -> LossOutput:
    """-rho A, rho = pi / pi_old of each token, not clipped (Ahmadian et al., arXiv 2402.14740).

    While pi is pi_old its gradient is REINFORCE's, -A grad log pi; in later steps the ratio corrects for what
    the policy has moved. The paper's sum over an answer's tokens is ``loss_aggregation: constant``, up to the
    constant ``max_gen_len``.
    """
    ratio = (tokens.logps - tokens.old_logps).exp()
    never = torch.zeros_like(ratio, dtype=torch.bool)
    return policy_gradient_output(-ratio * tokens.advantages, never, tokens, settings)
