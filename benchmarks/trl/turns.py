"""A TRL trainer that takes a step when it is told to."""

from __future__ import annotations

import time
from typing import Any

import torch
import transformers
import trl
from transformers import TrainerCallback

from benchmarks.worker import Channel, peak_mib, reset_peak

__all__ = ["Turns", "versions"]


class Turns(TrainerCallback):
    """Waits for its turn before each step; a step's time runs from there to the optimizer's update.

    Args:
        logged: what of a step's log the answer has, by the name that the other side uses.
    """

    def __init__(self, channel: Channel, imports: float, logged: dict[str, str]) -> None:
        self.channel, self.imports, self.logged = channel, imports, logged
        self.seconds = 0.0

    def _wait_for_turn(self) -> None:
        while (command := self.channel.receive()) == "memory":
            self.channel.send(imports_mib=self.imports, peak_mib=peak_mib())
        if command != "step":
            raise SystemExit(0)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        reset_peak()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._wait_for_turn()
        self.start = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds = time.perf_counter() - self.start

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" in logs:
            figures = {name: float(logs[theirs]) for name, theirs in self.logged.items()}
            self.channel.send(seconds=self.seconds, **figures)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self._wait_for_turn()


def versions() -> dict[str, str]:
    """Of what this side runs on."""
    return {"torch": torch.__version__, "trl": trl.__version__, "transformers": transformers.__version__}
