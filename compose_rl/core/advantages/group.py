"""Advantages relative to the other answers to the same prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from compose_rl.core.advantages.groups import GroupSums, deviations

if TYPE_CHECKING:
    from compose_rl.config.online_rl import OnlineRLSettings

__all__ = ["group"]

_EPSILON = 1e-4


def group(rewards: Tensor, group_ids: Tensor, answer_weights: Tensor, settings: OnlineRLSettings) -> Tensor:
    """(R - mean) / (std + 1e-4) over the group, float32 [n] (GRPO).

    Shao et al., arXiv 2402.03300, section 4.1.2; std is the population's. Without
    ``normalize_advantage`` it is R - mean (Dr. GRPO, arXiv 2503.20783). An answer that is lost has 0, and so
    has every answer of a group whose rewards are equal.

    Args:
        rewards: [n], of whole answers; not read where lost.
        group_ids: int64 [n]: answers to one prompt have the same.
        answer_weights: [n]: 0 for an answer that is lost, else 1.
    """
    groups = GroupSums(group_ids, answer_weights)
    centred = deviations(rewards, groups)
    if settings.normalize_advantage:
        # The mean of squared deviations cannot be negative, which E[x^2] - E[x]^2 in floating point can.
        std = (groups.sums(centred.square()) / groups.counts.clamp(min=1)).sqrt()
        centred = centred / (std + _EPSILON)
    return centred.float()
