"""Evaluation leaves no trace in training: the random state is what it was before."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from composer.core import Callback, State
from composer.loggers import Logger

__all__ = ["KeepRNG"]


class KeepRNG(Callback):
    """Puts the random state back after evaluation.

    A PyTorch DataLoader draws a seed from the global generator whenever it is iterated, so that how often one
    evaluates would otherwise change dropout, and with it the weights.
    """

    def __init__(self) -> None:
        self._saved: tuple[Any, ...] = ()

    def eval_before_all(self, state: State, logger: Logger) -> None:
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        self._saved = (random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda)

    def eval_after_all(self, state: State, logger: Logger) -> None:
        python, numpy, cpu, cuda = self._saved
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)
