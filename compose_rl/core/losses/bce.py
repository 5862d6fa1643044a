"""Binary cross-entropy of classifier reward models."""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from compose_rl.core.losses.types import LabelledScores, LossOutput

__all__ = ["bce"]


def bce(batch: LabelledScores) -> LossOutput:
    """-y log sigma(s) - (1 - y) log sigma(-s), the mean over texts and their labels.

    As in the verifiers of Cobbe et al., arXiv 2110.14168, section 4.2, which score a whole answer.

    Raises:
        ValueError: scores and labels differ in shape, which would broadcast into a wrong mean.
    """
    scores, labels = batch.scores, batch.labels.to(batch.scores.dtype)
    if scores.shape != labels.shape:
        raise ValueError(f"scores {tuple(scores.shape)} and labels {tuple(labels.shape)} differ in shape")
    losses = -labels * logsigmoid(scores) - (1 - labels) * logsigmoid(-scores)
    accuracy = ((scores > 0) == (labels > 0.5)).float().mean()
    return LossOutput(losses.mean(), {"accuracy": accuracy, "scores": scores.detach().float().mean()})
