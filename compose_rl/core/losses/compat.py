"""What Compose RL computes where this project computes something else; read only with ``compat: true``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compose_rl.core.losses.types import PairLogps

if TYPE_CHECKING:
    from compose_rl.config.offline_rl import OfflineRLSettings

__all__ = ["original_kto_losses", "original_sft_losses"]


def original_kto_losses(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Compose RL's KTO on log-ratios [B]: each side is held against the other side's mean in this microbatch.

    The means are of matched prompts and answers, the gradient flows through them, and they depend on the
    microbatch size: the three things in which it differs from the paper.
    """
    chosen_mean, rejected_mean = chosen.mean().clamp(min=0), rejected.mean().clamp(min=0)
    chosen_losses = torch.sigmoid(-beta * (chosen - rejected_mean))
    rejected_losses = torch.sigmoid(-beta * (chosen_mean - rejected))
    return (chosen_losses + rejected_losses) / 2


def original_sft_losses(pairs: PairLogps, settings: OfflineRLSettings) -> Tensor:
    """Compose RL's SFT term [B]: over the length of prompt and answer, after the mean where there is one."""
    if pairs.prompt_length is None:
        raise ValueError("the SFT term of compat needs prompt_length")
    log_prob = pairs.policy_chosen
    if settings.average_log_prob:
        log_prob = log_prob / pairs.chosen_length.clamp(min=1)
    return -log_prob / (pairs.prompt_length + pairs.chosen_length)
