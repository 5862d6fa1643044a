"""From samples to the ragged batches of docs/architecture.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from compose_rl.data.shards import Sample

__all__ = ["ANSWER_TOKENS", "Batch", "collate_instruction", "collate_ragged"]

Batch = dict[str, torch.Tensor]

ANSWER_TOKENS = (
    "engine_logps",
    "old_logps",
    "ref_logps",
    "old_values",
    "returns",
    "advantages",
    "token_weights",
)
"""Of online RL: what a batch has for each token of its answers, float32 [A] in the order of
``Packed.targets``."""

_SCALARS = (
    "chosen_reward",
    "rejected_reward",
    "ref_chosen",
    "ref_rejected",
    "ref_completion",
    "ref_kl",
)


def collate_ragged(samples: Sequence[Sample]) -> Batch:
    """Lay the pieces of each sample one after the other.

    Returns:
        ``lengths`` int64 [B, pieces], ``tokens`` int64 [N], ``index`` int64 [B], ``weight`` float32 [B] (1;
        0 in a microbatch that only fills up), and of ``label``, rewards, reference log-probs, ``kl_tokens``
        and ``kl_lengths`` what the samples have.
    """
    batch: Batch = {
        "lengths": _lengths(samples, "pieces"),
        "tokens": _tokens(samples, "pieces"),
        "index": torch.tensor([sample["index"] for sample in samples]),
        "weight": torch.ones(len(samples)),
    }
    for name in _SCALARS:
        if name in samples[0]:
            batch[name] = torch.tensor([sample[name] for sample in samples], dtype=torch.float32)
    if "label" in samples[0]:
        batch["label"] = _label([sample["label"] for sample in samples])
    if "kl_pieces" in samples[0]:
        batch["kl_lengths"] = _lengths(samples, "kl_pieces")
        batch["kl_tokens"] = _tokens(samples, "kl_pieces")
    return batch


def collate_instruction(samples: Sequence[Sample]) -> Batch:
    """Pack samples into one row, as a causal language model takes it.

    A sample's first token never has loss: it would be predicted from the sample before it.

    Returns:
        ``position_ids``, ``input_ids``, ``labels``, ``attention_mask`` int64 [1, T], ``weight`` float32 [B].
    """
    tokens = _tokens(samples, "pieces", part=0)
    labels = _tokens(samples, "pieces", part=1)
    sizes = [len(sample["pieces"][0]) for sample in samples]
    positions = torch.from_numpy(np.concatenate([np.arange(size) for size in sizes]))
    labels[positions == 0] = -100
    return {
        "position_ids": positions[None],
        "input_ids": tokens[None],
        "labels": labels[None],
        "attention_mask": torch.ones_like(tokens)[None],
        "weight": torch.ones(len(samples)),
    }


def _lengths(samples: Sequence[Sample], name: str) -> torch.Tensor:
    return torch.tensor([[len(piece) for piece in sample[name]] for sample in samples])


def _tokens(samples: Sequence[Sample], name: str, part: int | None = None) -> torch.Tensor:
    pieces = [sample[name] if part is None else sample[name][part : part + 1] for sample in samples]
    return torch.from_numpy(np.concatenate([piece for group in pieces for piece in group]))


def _label(labels: list[Any]) -> torch.Tensor:
    if isinstance(labels[0], bool):
        return torch.tensor(labels)
    stacked = torch.from_numpy(np.stack(labels))
    return stacked[:, 0] if stacked.shape[1] == 1 else stacked
