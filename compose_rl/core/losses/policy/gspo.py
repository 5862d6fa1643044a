"""Group sequence policy optimisation: the ratio of whole answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compose_rl.core.aggregation import answer_means
from compose_rl.core.losses.policy.clipped import clipped_losses
from compose_rl.core.losses.policy.terms import policy_gradient_output
from compose_rl.core.losses.policy.types import PolicyTokens
from compose_rl.core.losses.types import LossOutput

if TYPE_CHECKING:
    from compose_rl.config.online_rl import OnlineRLSettings

__all__ = ["gspo"]


def gspo(tokens: PolicyTokens, settings: OnlineRLSettings) -> LossOutput:
    """-min(s A, clip(s, 1 - low, 1 + high) A), s = exp(mean over an answer's tokens of log pi / pi_old).

    Zheng et al., arXiv 2507.18071, eq. 5 and 7. Every token of an answer has its answer's loss, so with
    ``sequence_mean`` it is the mean over answers, as in the paper. Ratios of whole answers are near 1: the
    paper clips at 3e-4 and 4e-4.
    """
    answers = tokens.answer_weights.numel()
    ratio = answer_means(tokens.logps - tokens.old_logps, tokens.answer_ids, answers).exp()
    losses, clipped = clipped_losses(ratio[tokens.answer_ids], tokens.advantages, settings)
    return policy_gradient_output(losses, clipped, tokens, settings)
