"""Kahneman-Tversky optimisation, on pairs or on single labelled completions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compose_rl.core.losses.compat import original_kto_losses
from compose_rl.core.losses.terms import log_ratio, pair_log_ratios, pair_output
from compose_rl.core.losses.types import LossOutput, PairLogps, UnpairedLogps
from compose_rl.errors import UserError

if TYPE_CHECKING:
    from compose_rl.config.offline_rl import OfflineRLSettings

__all__ = ["kto", "kto_kl", "kto_kl_sums"]


def kto(batch: PairLogps | UnpairedLogps, settings: OfflineRLSettings) -> LossOutput:
    """lambda_y - v(x, y): Ethayarajh et al., arXiv 2402.01306, eq. 8.

    With r = log pi(y|x) / pi_ref(y|x) and z = ``kto_kl``: v = lambda_D sigma(beta (r - z)) for desirable y,
    lambda_U sigma(beta (z - r)) for undesirable y. A pair is one completion of each kind, and counts
    as the mean of the two.

    Raises:
        UserError: single completions with ``compat``, of which the original knows nothing.
    """
    if isinstance(batch, UnpairedLogps):
        if settings.compat:
            raise UserError(
                "compat=True: the original's kto takes pairs only, and the data has single"
                " completions; set compat to false"
            )
        return _unpaired(batch, settings)
    chosen, rejected = pair_log_ratios(batch, settings)
    if settings.compat:
        return pair_output(original_kto_losses(chosen, rejected, settings.beta), batch, settings)
    if batch.kl is None:
        raise ValueError("kto needs the batch's kl; compute it with kto_kl_sums and kto_kl")
    losses = (_desirable(chosen, batch.kl, settings) + _undesirable(rejected, batch.kl, settings)) / 2
    return pair_output(losses, batch, settings, {"kto_kl": batch.kl})


def kto_kl_sums(policy: Tensor, ref: Tensor, length: Tensor, settings: OfflineRLSettings) -> Tensor:
    """Sum and number [2] of mismatched completions' log-ratios, to be added over microbatches and ranks.

    Without gradient: z is a constant of the loss.

    Args:
        policy: sums of the policy's log-probabilities [B] of completions that belong to other prompts.
        ref: the reference's.
        length: tokens of those completions [B].
    """
    ratios = log_ratio(policy, ref, length, settings).detach()
    return torch.stack([ratios.sum(), ratios.new_tensor(ratios.numel())])


def kto_kl(sums: Tensor) -> Tensor:
    """z = max(0, mean of log pi/pi_ref over mismatched pairs), a scalar.

    The paper's biased but cheap estimate of KL(pi || pi_ref), from the sums of ``kto_kl_sums``.
    """
    return (sums[0] / sums[1]).clamp(min=0)


def _unpaired(batch: UnpairedLogps, settings: OfflineRLSettings) -> LossOutput:
    ratio = log_ratio(batch.policy, batch.ref, batch.length, settings)
    losses = torch.where(
        batch.desirable, _desirable(ratio, batch.kl, settings), _undesirable(ratio, batch.kl, settings)
    )
    loss = losses.mean()
    metrics = {
        "signed_rewards": settings.beta * torch.where(batch.desirable, ratio, -ratio),
        "accuracy": (ratio > batch.kl) == batch.desirable,
        "completion_KL": ratio,
        "desirable": batch.desirable,
        "kto_kl": batch.kl,
    }
    if settings.sft_alpha > 0:
        nll = -batch.policy / batch.length.clamp(min=1)
        sft = settings.sft_alpha * (nll * batch.desirable).mean()
        metrics |= {"kto_loss": loss, "sft_regularization_loss": sft}
        loss = loss + sft
    return LossOutput(loss, {name: value.detach().float().mean() for name, value in metrics.items()})


def _desirable(ratio: Tensor, kl: Tensor, settings: OfflineRLSettings) -> Tensor:
    # 1 - sigma(x) as sigma(-x): no cancellation where sigma is close to 1.
    return settings.desirable_weight * torch.sigmoid(-settings.beta * (ratio - kl))


def _undesirable(ratio: Tensor, kl: Tensor, settings: OfflineRLSettings) -> Tensor:
    return settings.undesirable_weight * torch.sigmoid(-settings.beta * (kl - ratio))
