"""Gradient clipping of a model that FSDP 2 shards, which Composer's algorithm passes over in silence."""

from __future__ import annotations

import torch
from composer.core import Callback, State
from composer.loggers import Logger

from compose_rl.errors import UserError

__all__ = ["ShardedClipping"]


class ShardedClipping(Callback):
    """Clips the whole model's gradient, after the last microbatch and before the step.

    Args: as those of Composer's ``gradient_clipping``.

    Raises:
        UserError: ``clipping_type`` is neither ``norm`` nor ``value``.
    """

    def __init__(self, clipping_type: str, clipping_threshold: float) -> None:
        if clipping_type not in ("norm", "value"):
            raise UserError(
                f"algorithms.gradient_clipping.clipping_type='{clipping_type}' does not work on shards;"
                " use norm or value"
            )
        self._by_norm = clipping_type == "norm"
        self._threshold = clipping_threshold

    def after_train_batch(self, state: State, logger: Logger) -> None:
        if self._by_norm:
            torch.nn.utils.clip_grad_norm_(state.model.parameters(), self._threshold)
        else:
            torch.nn.utils.clip_grad_value_(state.model.parameters(), self._threshold)
