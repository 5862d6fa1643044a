"""The dataloaders of the LLM Foundry registry.

Each builder takes the tokenizer, the samples of a batch on this device, and the keys of
:class:`compose_rl.config.data.LoaderConfig`; it returns Composer's DataSpec. The order of samples is
StreamingDataset's: deterministic in seed and epoch, the same for any number of devices, resumed from the
state in a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from composer.core import DataSpec
from streaming import StreamingDataLoader
from transformers import PreTrainedTokenizerBase

from compose_rl.config.data import LoaderConfig, LoaderDataset
from compose_rl.config.schema import parse
from compose_rl.data import microbatches
from compose_rl.data.collate import Batch, collate_instruction, collate_ragged
from compose_rl.data.decode import (
    decode_classifier,
    decode_preference,
    decode_unpaired,
)
from compose_rl.data.instruction import InstructionDecoder
from compose_rl.data.mismatch import lend_answer
from compose_rl.data.reference import Reference, reference_file
from compose_rl.data.shards import Sample, ShardDataset
from compose_rl.errors import UserError

__all__ = [
    "DATALOADERS",
    "build_finegrained_preference_dataloader",
    "build_packed_instruction_dataloader",
    "build_pairwise_preference_dataloader",
    "build_unpaired_preference_dataloader",
]


@dataclass(frozen=True)
class _Kind:
    """How the batches of a dataloader are made, cut and counted."""

    collate: Callable[[list[Sample]], Batch]
    split: Callable[[Batch, int | float, int | None], list[Batch]]
    count: Callable[[Batch], dict[str, int]]


_RAGGED = _Kind(collate_ragged, microbatches.split_ragged, microbatches.count_ragged)
_INSTRUCTION = _Kind(collate_instruction, microbatches.split_instruction, microbatches.count_instruction)


class _Loader(StreamingDataLoader):
    """Counts the samples of a batch by ``weight``: other tensors of it need not be one per sample."""

    def _get_batch_size(self, batch: Batch) -> int:
        return len(batch["weight"])


def build_pairwise_preference_dataloader(
    tokenizer: PreTrainedTokenizerBase | None, device_batch_size: int | float, **config: Any
) -> DataSpec:
    """Preference pairs, with rewards and reference log-probs where there are any."""
    return _build("pairwise_preference", decode_preference, device_batch_size, config)


def build_unpaired_preference_dataloader(
    tokenizer: PreTrainedTokenizerBase | None, device_batch_size: int | float, **config: Any
) -> DataSpec:
    """Single answers, each desirable or not."""
    return _build("unpaired_preference", decode_unpaired, device_batch_size, config)


def build_finegrained_preference_dataloader(
    tokenizer: PreTrainedTokenizerBase | None, device_batch_size: int | float, **config: Any
) -> DataSpec:
    """Texts with labels, for classifiers."""
    _refuse("finegrained_preference", config, "reference", "kl_pairs")
    return _build("finegrained_preference", decode_classifier, device_batch_size, config)


def build_packed_instruction_dataloader(
    tokenizer: PreTrainedTokenizerBase | None, device_batch_size: int | float, **config: Any
) -> DataSpec:
    """Samples for supervised fine-tuning, packed; ``messages`` shards are tokenized on the fly."""
    _refuse("packed_instruction", config, "reference", "kl_pairs")
    decode = InstructionDecoder(tokenizer, config.get("loss_on", "answers"))
    return _build("packed_instruction", decode, device_batch_size, config, _INSTRUCTION)


DATALOADERS: dict[str, Callable[..., DataSpec]] = {
    "pairwise_preference": build_pairwise_preference_dataloader,
    "finegrained_preference": build_finegrained_preference_dataloader,
    "unpaired_preference": build_unpaired_preference_dataloader,
    "packed_instruction": build_packed_instruction_dataloader,
}
"""Builders by their registered name."""


def _build(
    name: str,
    decode: Callable[[dict[str, Any]], Sample],
    device_batch_size: int | float,
    document: dict[str, Any],
    kind: _Kind = _RAGGED,
) -> DataSpec:
    config = parse(LoaderConfig, document, f"{name} loader")
    if device_batch_size != int(device_batch_size):
        raise UserError(f"{name} loader: {device_batch_size} samples a device; give a whole number")
    pair = lend_answer(config.dataset.max_seq_len) if config.kl_pairs else None
    dataset = ShardDataset(config.dataset, decode, int(device_batch_size), pair)
    loader = _Loader(
        dataset,
        batch_size=int(device_batch_size),
        collate_fn=_collate(config, dataset.num_samples, kind),
        drop_last=config.drop_last,
        num_workers=config.num_workers,
        pin_memory=config.pin_memory and torch.cuda.is_available(),
        timeout=config.timeout,
        **({"prefetch_factor": config.prefetch_factor} if config.num_workers else {}),
        persistent_workers=config.persistent_workers and config.num_workers > 0,
    )
    return DataSpec(
        loader,
        num_samples=dataset.epoch_size,
        split_batch=partial(_split, kind.split, config.token_budget),
        get_num_samples_in_batch=microbatches.samples,
        get_num_tokens_in_batch=kind.count,
    )


def _split(
    split: Callable[[Batch, int | float, int | None], list[Batch]],
    token_budget: int | None,
    batch: Batch,
    microbatch_size: int | float,
) -> list[Batch]:
    return split(batch, microbatch_size, token_budget)


def _collate(config: LoaderConfig, size: int, kind: _Kind) -> Callable[[list[Sample]], Batch]:
    if config.reference is None:
        return kind.collate
    reference = Reference(reference_file(config.reference, _split_name(config.dataset)), size)
    return partial(_collate_with_reference, kind.collate, reference)


def _collate_with_reference(
    collate: Callable[[list[Sample]], Batch], reference: Reference, samples: list[Sample]
) -> Batch:
    return collate([reference.add(sample) for sample in samples])


def _split_name(dataset: LoaderDataset) -> str:
    return dataset.split or Path(dataset.local or dataset.remote or "train").name


def _refuse(name: str, config: dict[str, Any], *keys: str) -> None:
    for key in keys:
        if config.get(key):
            raise UserError(f"{name} loader: '{key}' has no meaning for this data; leave it out")
