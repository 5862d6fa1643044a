"""Advantages against the mean of the other answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from compose_rl.core.advantages.groups import GroupSums, deviations

if TYPE_CHECKING:
    from compose_rl.config.online_rl import OnlineRLSettings

__all__ = ["leave_one_out"]


def leave_one_out(
    rewards: Tensor, group_ids: Tensor, answer_weights: Tensor, settings: OnlineRLSettings
) -> Tensor:
    """R_i - mean of the other rewards of its group, float32 [n] (RLOO: Ahmadian et al., arXiv 2402.14740).

    That is (R_i - mean of all) k / (k - 1) for k answers that count; an answer without others has 0.
    Arguments as those of :func:`~compose_rl.core.advantages.group.group`.
    """
    del settings
    groups = GroupSums(group_ids, answer_weights)
    return (deviations(rewards, groups) * groups.counts / (groups.counts - 1).clamp(min=1)).float()
