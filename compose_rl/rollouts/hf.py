"""Engine ``hf``: generation in the trainer's process, with its own module or with a copy."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from compose_rl.rollouts.decoding import decode
from compose_rl.rollouts.requests import check_requests
from compose_rl.rollouts.types import Completion, Pushed, Request, Sampling
from compose_rl.rollouts.weights import load_tensors

__all__ = ["HFGenerator", "evaluating", "model_limits", "stop_tokens"]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Generator[None]:
    """Gradients off and the model in evaluation mode, each of its parts back in its own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        # Not inference_mode: what a module caches now may be needed by a backward later.
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def model_limits(model: nn.Module) -> tuple[int, int | None]:
    """Size of the vocabulary, and the greatest number of tokens where the model has one."""
    config: Any = model.config
    length = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    return config.vocab_size, length


def stop_tokens(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that end an answer: the model's own, else the tokenizer's; none where neither says."""
    found = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if found is None:
        found = tokenizer.eos_token_id
    if found is None:
        return ()
    return tuple(found) if isinstance(found, list) else (found,)


class HFGenerator:
    """Generates with a causal language model of this process.

    Args:
        model: the Hugging Face model, or a PEFT model around it.
        rows: answers that are written at once.
        shares_weights: the model is the one that is trained, so that nothing is pushed but a number.
        dtype: of the products, under autocast, where it is not the model's own.
    """

    shared = False

    def __init__(
        self,
        model: nn.Module,
        *,
        rows: int,
        shares_weights: bool = True,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self.rows = rows
        self.version = 0
        self._shares_weights = shares_weights
        self._dtype = dtype

    def push(self, weights: Iterable[tuple[str, Tensor]], version: int) -> Pushed:
        """Raises UserError when the weights are not the model's, which keeps what it has."""
        start = time.monotonic()
        size = 0 if self._shares_weights else load_tensors(self.model, weights)
        self.version = version
        return Pushed(bytes=size, seconds=time.monotonic() - start)

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        done: Callable[[int], None] = lambda count: None,
    ) -> list[list[Completion]]:
        """See :class:`compose_rl.rollouts.types.Generator`."""
        check_requests(requests, sampling, *model_limits(self.model))
        device = next(self.model.parameters()).device.type
        with evaluating(self.model), torch.autocast(device, self._dtype, enabled=self._dtype is not None):
            return decode(self.model, requests, sampling, rows=self.rows, version=self.version, done=done)

    def close(self) -> None:
        """Nothing is held."""
