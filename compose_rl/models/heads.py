"""The head that turns a hidden state into scores."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["ValueHead"]


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
