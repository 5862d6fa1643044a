"""Sums over groups of answers to the same prompt."""

# torch is typed in part only.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

__all__ = ["GroupSums", "deviations"]


class GroupSums:
    """Sums over the answers of each group that count, and how many these are.

    Args:
        group_ids: int64 [n], any numbers.
        answer_weights: [n]: 0 for an answer that is lost, else 1.
    """

    def __init__(self, group_ids: Tensor, answer_weights: Tensor) -> None:
        self.counting = answer_weights > 0
        ids, self._rows = cast(tuple[Tensor, Tensor], torch.unique(group_ids, return_inverse=True))
        self._groups = ids.numel()
        self.counts = self.sums(torch.ones_like(answer_weights, dtype=torch.float64))

    def sums(self, values: Tensor) -> Tensor:
        """[n] -> [n]: at each answer the sum over its group; what is lost does not count, NaN neither."""
        counted = torch.where(self.counting, values, torch.zeros_like(values))
        return counted.new_zeros(self._groups).index_add(0, self._rows, counted)[self._rows]


def deviations(rewards: Tensor, groups: GroupSums) -> Tensor:
    """float64 [n]: reward - mean of its group; 0 for lost answers, exactly 0 where all rewards are equal.

    Exactly, since sums of equal float32 numbers have no rounding error in float64.
    """
    rewards = rewards.double()
    means = groups.sums(rewards) / groups.counts.clamp(min=1)
    return torch.where(groups.counting, rewards - means, 0.0)
