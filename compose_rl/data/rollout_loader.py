"""The dataloaders ``prompt`` and ``messages``: prompts in, minibatches of their answers out.

The callback takes prompts, fills the buffer with what became of them, and Composer iterates over that. An
iterator always starts at the beginning of its pass and consumes nothing: the batches that Composer spins
through after a resume are there again for the next iterator. So the place in a pass is Composer's own
``timestamp.batch_in_epoch``, and no other state of the loader has to be saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from composer.core import DataSpec
from composer.utils import dist
from transformers import PreTrainedTokenizerBase

from compose_rl.config.data import PromptLoaderConfig
from compose_rl.config.schema import parse
from compose_rl.data import microbatches
from compose_rl.data.collate import Batch
from compose_rl.data.experience import Experience
from compose_rl.data.prompts import PromptSource
from compose_rl.errors import UserError

__all__ = [
    "PROMPT_DATALOADERS",
    "RolloutLoader",
    "build_messages_dataloader",
    "build_prompt_dataloader",
]


class RolloutLoader:
    """This rank's part of the minibatches of a pass over :attr:`buffer`; none while there is no buffer.

    Args:
        batch_size: answers of a minibatch on this rank.
        seed: of the order of minibatches.
        minibatches: of a pass, where it has to be known before there is a buffer.
    """

    def __init__(
        self, prompts: PromptSource, batch_size: int, seed: int, minibatches: int | None = None
    ) -> None:
        self.prompts = prompts
        self.batch_size = batch_size
        self.buffer: Experience | None = None
        """The iteration's answers, of all ranks."""
        self._seed = seed
        self._minibatches = minibatches
        self._iteration, self._epoch = 0, 0

    @property
    def size(self) -> int:
        """Answers of a minibatch, over all ranks."""
        return self.batch_size * dist.get_world_size()

    def turn(self, iteration: int, epoch: int) -> None:
        """Say which pass is gone over: at the event ``EPOCH_START``, and when a state was loaded.

        Args:
            iteration: ``timestamp.iteration``.
            epoch: ``timestamp.epoch_in_iteration``.
        """
        self._iteration, self._epoch = iteration, epoch

    def __len__(self) -> int:
        """Minibatches of a pass.

        Raises:
            TypeError: not known yet; Composer then goes by the iterator.
        """
        if self.buffer is not None:
            return self.buffer.minibatches(self.size)
        if self._minibatches is None:
            raise TypeError("the number of minibatches is not known before there is a buffer")
        return self._minibatches

    def __iter__(self) -> Iterator[Batch]:
        if self.buffer is None:
            return
        buffer, size = self.buffer, self.size
        order = buffer.order(self._seed, self._iteration, self._epoch)
        for number in range(buffer.minibatches(size)):
            share = buffer.minibatch(order, number, size, dist.get_global_rank(), dist.get_world_size())
            yield buffer.weighed(share, order, number, size)


def build_prompt_dataloader(
    tokenizer: PreTrainedTokenizerBase | None, device_batch_size: int | float, **config: Any
) -> DataSpec:
    """Prompts that are tokenized, with a reference answer or without."""
    return _build("prompt", tokenizer, device_batch_size, config)


def build_messages_dataloader(
    tokenizer: PreTrainedTokenizerBase | None, device_batch_size: int | float, **config: Any
) -> DataSpec:
    """Prompts that are messages, tokenized on the fly."""
    return _build("messages", tokenizer, device_batch_size, config)


PROMPT_DATALOADERS: dict[str, Callable[..., DataSpec]] = {
    "prompt": build_prompt_dataloader,
    "messages": build_messages_dataloader,
}
"""Builders by their registered name."""


def _build(
    name: str, tokenizer: PreTrainedTokenizerBase | None, device_batch_size: int | float, document: Any
) -> DataSpec:
    config = parse(PromptLoaderConfig, document, f"{name} loader")
    if tokenizer is None:
        raise UserError(f"{name} loader: needs a tokenizer; set 'tokenizer' in the document")
    if device_batch_size != int(device_batch_size):
        raise UserError(f"{name} loader: {device_batch_size} answers a device; give a whole number")
    prompts = PromptSource(config, tokenizer)
    loader = RolloutLoader(prompts, int(device_batch_size), config.dataset.shuffle_seed, config.minibatches)
    return DataSpec(
        loader,
        split_batch=partial(_split, config.token_budget),
        get_num_samples_in_batch=microbatches.answers,
        get_num_tokens_in_batch=microbatches.count_answers,
    )


def _split(token_budget: int | None, batch: Batch, microbatch_size: int | float) -> list[Batch]:
    return microbatches.split_ragged(batch, microbatch_size, token_budget)
