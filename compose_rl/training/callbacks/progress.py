"""How far training is and how long it still needs."""

from __future__ import annotations

import time
from contextlib import ExitStack

from composer.core import Callback, State, TimeUnit
from composer.loggers import Logger
from composer.utils import dist

from compose_rl.progress import Phase, Progress

__all__ = ["StageProgress"]


class StageProgress(Callback):
    """Shows steps done, rate, time left, loss, learning rate and tokens a second, on rank 0.

    Args:
        prefix: stands in front of every line, usually the stage's name.
    """

    def __init__(self, prefix: str = "train") -> None:
        self._progress = Progress(prefix, quiet=dist.get_global_rank() != 0)
        self._open = ExitStack()
        self._phase: Phase | None = None
        self._first = self._first_token = 0

    def fit_start(self, state: State, logger: Logger) -> None:
        self._first = int(state.timestamp.batch)
        self._first_token = int(state.timestamp.token)
        if self._first:
            self._progress.say(f"resumed after batch {self._first}")
        self._phase = self._open.enter_context(self._progress.phase("train", unit="batches"))

    def batch_end(self, state: State, logger: Logger) -> None:
        assert self._phase is not None
        total = _batches(state)
        if total is not None:
            self._phase.total = total - self._first
        self._phase.advance(1, note=self._figures(state))

    def _figures(self, state: State) -> str:
        seconds = time.monotonic() - self._phase.started if self._phase else 0.0
        tokens = (int(state.timestamp.token) - self._first_token) / max(seconds, 1e-9)
        loss, rate = state.total_loss_dict["loss/train/total"], state.schedulers[0].get_last_lr()[0]
        return f"loss {loss:.4f}, lr {rate:.3g}, {tokens:,.0f} tokens/s"

    def fit_end(self, state: State, logger: Logger) -> None:
        self._open.close()

    def close(self, state: State, logger: Logger) -> None:
        self._open.close()


def _batches(state: State) -> int | None:
    """Batches of the whole training; None while that cannot be known."""
    duration = state.max_duration
    if duration is not None and duration.unit == TimeUnit.EPOCH and state.dataloader_len is not None:
        return duration.value * int(state.dataloader_len)
    if duration is not None and duration.unit == TimeUnit.ITERATION and state.dataloader_len is not None:
        length = state._iteration_length
        if length is not None and length.unit == TimeUnit.EPOCH:
            return duration.value * length.value * int(state.dataloader_len)
    elapsed = state.get_elapsed_duration()
    if elapsed is None or float(elapsed) <= 0:
        return None
    return round(int(state.timestamp.batch) / float(elapsed))
