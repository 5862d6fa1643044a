"""Generalised advantage estimation."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gae"]


def gae(
    rewards: Tensor, values: Tensor, answer_lengths: Tensor, *, gamma: float, lambda_gae: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns, float32 [A] each (Schulman et al., arXiv 1506.02438, eq. 16).

    delta_t = r_t + gamma V_{t+1} - V_t, A_t = delta_t + gamma lambda A_{t+1}, return_t = A_t + V_t. After an
    answer's last token value and advantage are 0: an answer that was cut is treated as one that ended.

    Args:
        rewards: [A], one answer after the other.
        values: [A], of the state before each token.
        answer_lengths: int64 [n] that sum to A.
    """
    rewards, values = rewards.float(), values.detach().float()
    follows = torch.ones_like(values)
    ends = answer_lengths.cumsum(0)[answer_lengths > 0] - 1
    follows[ends] = 0
    deltas = rewards + gamma * follows * values.roll(-1) - values
    advantages = _reverse_scan(deltas, answer_lengths, gamma * lambda_gae)
    return advantages, advantages + values


def _reverse_scan(deltas: Tensor, answer_lengths: Tensor, decay: float) -> Tensor:
    """x_t = delta_t + decay x_{t+1} inside each answer; a step is a position of all answers at once."""
    longest = int(answer_lengths.max()) if answer_lengths.numel() else 0
    columns = torch.arange(longest, device=deltas.device)
    inside = columns[None, :] < answer_lengths[:, None]
    table = deltas.new_zeros(inside.shape)
    table[inside] = deltas
    table = table.t().contiguous()  # A row is a position.
    for position in range(longest - 2, -1, -1):
        table[position] += decay * table[position + 1]
    return table.t()[inside]
