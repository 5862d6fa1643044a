"""Stop at the first loss that is not a number, before it reaches a checkpoint."""

from __future__ import annotations

import math

from composer.core import Callback, State
from composer.loggers import Logger

from compose_rl.errors import UserError

__all__ = ["FiniteLoss"]


class FiniteLoss(Callback):
    """Raises :class:`UserError` where the step's loss, summed over processes, is NaN or infinite.

    It looks after the step and before ``BATCH_CHECKPOINT``, where the loss is on the host anyway.
    """

    def batch_end(self, state: State, logger: Logger) -> None:
        for name, loss in state.total_loss_dict.items():
            if not math.isfinite(loss):
                # timestamp already counts this step.
                batch = int(state.timestamp.batch) - 1
                raise UserError(
                    f"{name} is {loss} at batch {batch} (epoch {int(state.timestamp.epoch)});"
                    " lower optimizer.lr, set algorithms.gradient_clipping, or look at that batch's data"
                )
