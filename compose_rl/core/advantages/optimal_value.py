"""The optimal value of a prompt under a pull towards the reference."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["optimal_value"]


def optimal_value(rewards: Tensor, beta: float, answer_weights: Tensor | None = None) -> Tensor:
    """V* = beta log mean exp(r / beta), float32 [groups] (A*-PO: Brantley et al., arXiv 2505.20686).

    Args:
        rewards: [groups, n] of n answers of the reference to each prompt.
        beta: the paper's beta_1, 1/2 there. That of the loss ``apo`` is its beta_2, 1e-3 there.
        answer_weights: [groups, n]: 0 for an answer that is lost, else 1; by default 1.

    Returns:
        The estimate of each prompt; NaN for one whose answers are all lost.
    """
    exact = rewards.double() / beta
    counted = torch.ones_like(exact) if answer_weights is None else (answer_weights > 0).double()
    exact = torch.where(counted > 0, exact, -torch.inf)
    counts = counted.sum(1)
    values = beta * (torch.logsumexp(exact, dim=1) - counts.log())
    return torch.where(counts > 0, values, torch.nan).float()
