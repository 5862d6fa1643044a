"""Log-probabilities of target tokens from hidden states, never holding [A, V].

log p_i = z_i[t_i] - logsumexp(z_i),  z_i = (W h_i + b) / temperature
dL/dh_i = g_i (W[t_i] - sum_v p_iv W_v) / temperature
dL/dW_v = sum_i g_i (1[v = t_i] - p_iv) h_i / temperature
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["linear_logprobs"]


def linear_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, temperature: float = 1.0, bias: Tensor | None = None
) -> Tensor:
    """Log-probabilities float32 [A] of `targets` [A] under softmax((hidden [A, H] @ weight [V, H]^T + bias
    [V]) / temperature).
    """
    logits = torch.nn.functional.linear(hidden, weight, bias).float() / temperature
    return torch.log_softmax(logits, dim=-1).gather(1, targets[:, None]).squeeze(1)
