"""From a row of MDS columns to a sample: the pieces it is made of, and what is known about them.

A sample has ``pieces`` (int64 arrays, in the order in which a batch lays them out), ``length`` (tokens of the
longest sequence in it) and, as the dataset type has them, ``label``, ``chosen_reward``, ``rejected_reward``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compose_rl.data.shards import Sample, Tokens, integers
from compose_rl.errors import UserError

__all__ = ["common_prefix", "decode_classifier", "decode_preference", "decode_unpaired", "token_column"]


def common_prefix(first: Tokens, second: Tokens) -> int:
    """How many tokens both sequences begin with, at most all but the last of the shorter one."""
    size = min(len(first), len(second)) - 1
    differs = np.flatnonzero(first[:size] != second[:size])
    return int(differs[0]) if len(differs) else max(size, 0)


def decode_preference(row: dict[str, Any]) -> Sample:
    """Prompt, chosen and rejected answer.

    Shards without a ``prompt`` column hold whole conversations: what both have in common is taken for the
    prompt, which counts a shared beginning of the answers to it.
    """
    chosen, rejected = token_column(row, "chosen"), token_column(row, "rejected")
    if "prompt" in row:
        prompt = integers(row["prompt"])
    else:
        shared = common_prefix(chosen, rejected)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    sample = {
        "pieces": (prompt, chosen, rejected),
        "length": len(prompt) + max(len(chosen), len(rejected)),
    }
    for name in ("chosen_reward", "rejected_reward"):
        if name in row:
            sample[name] = float(row[name])
    return sample


def decode_unpaired(row: dict[str, Any]) -> Sample:
    """Prompt, completion and whether it is desirable."""
    prompt, completion = token_column(row, "prompt"), token_column(row, "completion")
    return {
        "pieces": (prompt, completion),
        "length": len(prompt) + len(completion),
        "label": bool(_labels(row).item()),
    }


def decode_classifier(row: dict[str, Any]) -> Sample:
    """Text and label, one number or one per class."""
    text = token_column(row, "text" if "text" in row else "input")
    return {"pieces": (text,), "length": len(text), "label": _labels(row).astype(np.float32)}


def token_column(row: dict[str, Any], name: str) -> Tokens:
    """A column of tokens, int64 [n].

    Raises:
        UserError: the shards have no such column.
    """
    if name not in row:
        raise UserError(
            f"shards lack the column '{name}'; they have: {', '.join(sorted(row))};"
            " use the dataloader that fits their dataset_type"
        )
    return integers(row[name])


def _labels(row: dict[str, Any]) -> np.ndarray:
    """Labels by their true width: 8 bytes each are int64, as Compose RL writes them; other sizes are
    uint8."""
    if "label" not in row:
        token_column(row, "label")
    value = row["label"]
    if isinstance(value, bytes):
        return np.frombuffer(value, np.int64 if len(value) % 8 == 0 else np.uint8)
    return np.atleast_1d(np.asarray(value))
