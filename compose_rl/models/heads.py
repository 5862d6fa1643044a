"""Heads that turn a hidden state into scores."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

__all__ = ["HEAD_ATTRIBUTES", "HeadName", "ValueHead", "build_head"]

HeadName = Literal["value_head", "linear"]

HEAD_ATTRIBUTES: dict[str, str] = {"value_head": "value_head", "linear": "score"}
"""The attribute under which a model keeps each head, and so the prefix of its weights: as in Compose RL's
reward models (``value_head``) and in transformers' sequence classifiers (``score``)."""


class ValueHead(nn.Module):
    """Two layers with a tanh between them: hidden states [..., H] to scores [..., n_labels].

    The head of Compose RL's reward models, with its parameter names.
    """

    def __init__(self, hidden_size: int, n_labels: int = 1, p_dropout: float = 0.0) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size, bias=False)
        self.dropout = nn.Dropout(p_dropout)
        self.score = nn.Linear(hidden_size, n_labels, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform dense layer (torch's own), and scores of about unit variance at the start."""
        self.dense.reset_parameters()
        nn.init.normal_(self.score.weight, std=(self.score.in_features + 1) ** -0.5)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.score(self.dropout(torch.tanh(self.dense(self.dropout(hidden)))))


def build_head(name: HeadName, hidden_size: int, n_labels: int = 1, p_dropout: float = 0.0) -> nn.Module:
    """A fresh head: hidden states [..., H] to scores [..., n_labels].

    ``linear`` is the head of transformers' sequence classifiers: no bias, no dropout, and their usual start
    (standard deviation 0.02).

    Raises:
        ValueError: dropout with the linear head, which could not be exported.
    """
    if name == "value_head":
        return ValueHead(hidden_size, n_labels, p_dropout)
    if p_dropout:
        raise ValueError(
            f"p_dropout={p_dropout}: the linear head has no dropout; use head 'value_head' or p_dropout 0"
        )
    head = nn.Linear(hidden_size, n_labels, bias=False)
    nn.init.normal_(head.weight, std=0.02)
    return head
