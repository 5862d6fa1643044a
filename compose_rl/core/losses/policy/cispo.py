"""Clipped importance sampling policy optimisation: every token keeps its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compose_rl.core.losses.policy.terms import policy_gradient_output
from compose_rl.core.losses.policy.types import PolicyTokens
from compose_rl.core.losses.types import LossOutput

if TYPE_CHECKING:
    from compose_rl.config.online_rl import OnlineRLSettings

__all__ = ["cispo"]


def cispo(tokens: PolicyTokens, settings: OnlineRLSettings) -> LossOutput:
    """-sg(min(rho, 1 + high)) A log pi, sg: without gradient (MiniMax-M1, arXiv 2506.13585, eq. 4 and 5).

    The ratio has no lower clip, as in the paper's experiments.
    """
    ratio = (tokens.logps - tokens.old_logps).detach().exp()
    highest = 1 + settings.clip_high
    losses = -ratio.clamp(max=highest) * tokens.advantages * tokens.logps
    return policy_gradient_output(losses, ratio > highest, tokens, settings)
