"""From a row of MDS columns to a sample: the pieces it is made of, and what is known about them.

A sample has ``pieces`` (int64 arrays, in the order in which a batch lays them out), ``length`` (tokens of the longest
sequence in it) and, as the dataset type has them, ``label``, ``chosen_reward``, ``rejected_reward``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compose_rl.data.shards import Sample, Tokens, integers
from compose_rl.errors import UserError

__all__ = ["common_prefix", "decode_classifier", "decode_instruction", "decode_preference", "decode_unpaired"]


def common_prefix(first: Tokens, second: Tokens) -> int:
    """How many tokens both sequences begin with, at most all but the last of the shorter one."""
    size = min(len(first), len(second)) - 1
    differs = np.flatnonzero(first[:size] != second[:size])
    return int(differs[0]) if len(differs) else max(size, 0)


def decode_preference(row: dict[str, Any]) -> Sample:
    """Prompt, chosen and rejected answer.

    Shards without a ``prompt`` column hold whole conversations: what both have in common is taken for the prompt, which
    counts a shared beginning of the answers to it.
    """
    chosen, rejected = _column(row, "chosen"), _column(row, "rejected")
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
    prompt, completion = _column(row, "prompt"), _column(row, "completion")
    return {
        "pieces": (prompt, completion),
        "length": len(prompt) + len(completion),
        "label": bool(_labels(row).item()),
    }


def decode_classifier(row: dict[str, Any]) -> Sample:
    """Text and label, one number or one per class."""
    text = _column(row, "input") if "input" in row else _column(row, "text")
    return {"pieces": (text,), "length": len(text), "label": _labels(row).astype(np.float32)}


def decode_instruction(row: dict[str, Any]) -> Sample:
    """Tokens and labels (-100 where no loss)."""
    tokens, labels = _column(row, "input_ids"), _column(row, "labels")
    if len(tokens) != len(labels):
        raise UserError(
            f"instruction data: {len(tokens)} input_ids but {len(labels)} labels; tokenize it again"
        )
    return {"pieces": (tokens, labels), "length": len(tokens)}


def _column(row: dict[str, Any], name: str) -> Tokens:
    if name not in row:
        raise UserError(
            f"shards lack the column '{name}'; they have: {', '.join(sorted(row))};"
            " use the dataloader that fits their dataset_type"
        )
    return integers(row[name])


def _labels(row: dict[str, Any]) -> np.ndarray:
    """Labels by their true width: 8 bytes a label are int64 (what is written), other sizes uint8 (what was read once)."""
    if "label" not in row:
        _column(row, "label")
    value = row["label"]
    if isinstance(value, bytes):
        return np.frombuffer(value, np.int64 if len(value) % 8 == 0 else np.uint8)
    return np.atleast_1d(np.asarray(value))
