"""The weights of a minibatch, which has a share of it on every rank."""

from __future__ import annotations

import torch
from composer.devices import Device
from composer.utils import dist

from compose_rl.core.aggregation import expand
from compose_rl.data.collate import Batch

__all__ = ["weighed"]


def weighed(batch: Batch, aggregation: str, device: Device) -> Batch:
    """This rank's share with the weights of the minibatch of all ranks.

    Where none of its answers is learnt from, all count and none weighs anything: a mean over no answers would
    be 0/0, this one is 0 whatever the loss.

    Args:
        aggregation: ``loss_aggregation``.
        device: where ranks talk.
    """
    lengths, counts = batch["lengths"][:, 1:].flatten(), batch["answer_weights"].flatten()
    sums = device.tensor_to_device(torch.stack([counts.sum(), (counts * lengths).sum()]).double())
    dist.all_reduce(sums)
    answers, tokens = sums.tolist()
    if not answers:
        return batch | {"counted": torch.ones_like(batch["answer_weights"])}
    if aggregation == "token_mean":
        return batch | {"token_weights": expand(counts * (answers / tokens), lengths)}
    return batch
