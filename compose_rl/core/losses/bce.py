"""Binary cross-entropy of classifier reward models."""

from __future__ import annotations

from torch.nn.functional import logsigmoid

from compose_rl.core.losses.types import LabelledScores, LossOutput

__all__ = ["bce"]


def bce(batch: LabelledScores) -> LossOutput:
    """-y log sigma(s) - (1 - y) log sigma(-s), the mean over a text's labels and then over texts.

    As in the verifiers of Cobbe et al., arXiv 2110.14168, section 4.2, which score a whole answer.
    """
    scores, labels = (
        batch.scores.flatten(1) if batch.scores.dim() > 1 else batch.scores[:, None],
        batch.labels,
    )
    labels = labels.reshape(scores.shape).to(scores.dtype)
    losses = -labels * logsigmoid(scores) - (1 - labels) * logsigmoid(-scores)
    accuracy = ((scores > 0) == (labels > 0.5)).float().mean()
    return LossOutput(losses.mean(), {"accuracy": accuracy, "scores": scores.detach().float().mean()})
