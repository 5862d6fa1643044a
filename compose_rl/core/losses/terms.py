"""What the pairwise losses share: log-ratios, the SFT term and the figures that are logged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from compose_rl.core.losses.compat import original_sft_losses
from compose_rl.core.losses.types import LossOutput, PairLogps
from compose_rl.errors import UserError

if TYPE_CHECKING:
    from compose_rl.config.offline_rl import OfflineRLSettings

__all__ = ["log_ratio", "pair_output", "preference_gap", "reward_gap"]


def log_ratio(policy: Tensor, ref: Tensor, length: Tensor, settings: OfflineRLSettings) -> Tensor:
    """log pi(y|x) - log pi_ref(y|x) of each answer [B]; per answer token if ``average_log_prob``."""
    ratio = policy - ref
    return ratio / length.clamp(min=1) if settings.average_log_prob else ratio


def pair_log_ratios(pairs: PairLogps, settings: OfflineRLSettings) -> tuple[Tensor, Tensor]:
    """The log-ratios of the chosen and of the rejected answers, [B] each."""
    chosen = log_ratio(pairs.policy_chosen, pairs.ref_chosen, pairs.chosen_length, settings)
    rejected = log_ratio(pairs.policy_rejected, pairs.ref_rejected, pairs.rejected_length, settings)
    return chosen, rejected


def preference_gap(pairs: PairLogps, settings: OfflineRLSettings) -> Tensor:
    """h = [log pi/pi_ref](chosen) - [log pi/pi_ref](rejected), [B]; beta is not in it."""
    chosen, rejected = pair_log_ratios(pairs, settings)
    return chosen - rejected


def reward_gap(pairs: PairLogps, settings: OfflineRLSettings) -> Tensor:
    """r(chosen) - r(rejected), [B].

    Raises:
        UserError: the data has no rewards.
    """
    if pairs.chosen_reward is None or pairs.rejected_reward is None:
        raise UserError(
            f"loss_type='{settings.loss_type}' needs the columns 'chosen_reward' and 'rejected_reward',"
            " which the data lacks; tokenize data that has them, or choose dpo, ipo or kto"
        )
    return pairs.chosen_reward - pairs.rejected_reward


def sft_losses(pairs: PairLogps) -> Tensor:
    """-log pi(chosen|x) / |chosen|, [B] (Pang et al., arXiv 2404.19733, eq. 1: the NLL term)."""
    return -pairs.policy_chosen / pairs.chosen_length.clamp(min=1)


def pair_output(
    losses: Tensor, pairs: PairLogps, settings: OfflineRLSettings, extra: dict[str, Tensor] | None = None
) -> LossOutput:
    """Mean of ``losses`` [B], plus the SFT term, with the figures that every pairwise loss logs.

    ``chosen_KL`` is the mean of log pi/pi_ref over chosen answers. These are the dataset's, not samples of
    the policy, so it estimates no divergence; the name is Compose RL's.
    """
    loss = losses.mean()
    metrics = _pair_metrics(pairs, settings) | (extra or {})
    if settings.sft_alpha > 0:
        terms = original_sft_losses(pairs, settings) if settings.compat else sft_losses(pairs)
        sft = settings.sft_alpha * terms.mean()
        metrics |= {f"{settings.loss_type}_loss": loss, "sft_regularization_loss": sft}
        loss = loss + sft
    return LossOutput(loss, {name: value.detach().float().mean() for name, value in metrics.items()})


def _pair_metrics(pairs: PairLogps, settings: OfflineRLSettings) -> dict[str, Tensor]:
    chosen, rejected = pair_log_ratios(pairs, settings)
    return {
        "chosen_rewards": settings.beta * chosen,
        "rejected_rewards": settings.beta * rejected,
        "margin": settings.beta * (chosen - rejected),
        "chosen_KL": chosen,
        "rejected_KL": rejected,
        "margin_KL": chosen - rejected,
        "accuracy": chosen > rejected,
    }
