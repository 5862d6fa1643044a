"""The clipped policy gradient of PPO and GRPO."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compose_rl.core.losses.policy.terms import policy_gradient_output
from compose_rl.core.losses.policy.types import PolicyTokens
from compose_rl.core.losses.types import LossOutput

if TYPE_CHECKING:
    from compose_rl.config.online_rl import OnlineRLSettings

__all__ = ["clipped", "clipped_losses"]


def clipped(tokens: PolicyTokens, settings: OnlineRLSettings) -> LossOutput:
    """-min(rho A, clip(rho, 1 - low, 1 + high) A), rho = pi / pi_old of each token.

    Schulman et al., arXiv 1707.06347, eq. 7; high > low: clip-higher of DAPO (arXiv 2503.14476).
    """
    ratio = (tokens.logps - tokens.old_logps).exp()
    return policy_gradient_output(*clipped_losses(ratio, tokens.advantages, settings), tokens, settings)


def clipped_losses(ratio: Tensor, advantages: Tensor, settings: OnlineRLSettings) -> tuple[Tensor, Tensor]:
    """The losses [A], and where clipping binds: bool [A], the gradient is 0 there."""
    within = ratio.clamp(1 - settings.policy_clip_ratio, 1 + settings.clip_high)
    free, bound = -ratio * advantages, -within * advantages
    return torch.maximum(free, bound), bound > free
