"""Held-out pairs and prompts from tokenized shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streaming import LocalDataset
from transformers import PreTrainedTokenizerBase

from compose_rl.data.decode import decode_preference
from compose_rl.data.shards import check_shards, integers

__all__ = ["Pair", "Prompt", "read_pairs", "read_prompts"]

Tokens = list[int]


@dataclass(frozen=True)
class Pair:
    """A prompt and two answers to it."""

    prompt: Tokens
    chosen: Tokens
    rejected: Tokens


@dataclass(frozen=True)
class Prompt:
    """A prompt to answer."""

    tokens: Tokens
    reference: str
    """The known answer, or the chosen one; empty where there is neither."""


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    check_shards(folder)
    dataset = LocalDataset(local=str(folder))
    return (dataset[index] for index in range(len(dataset)))


def _spread(rows: list[Any], count: int) -> list[Any]:
    """At most ``count`` of ``rows``, evenly from all over them."""
    count = min(count, len(rows))
    return [rows[index * len(rows) // count] for index in range(count)]


def _pair(row: dict[str, Any]) -> Pair:
    prompt, chosen, rejected = (piece.tolist() for piece in decode_preference(row)["pieces"])
    return Pair(prompt, chosen, rejected)


def read_pairs(folder: Path, count: int) -> list[Pair]:
    """At most ``count`` pairs of the shards in ``folder``.

    Raises:
        UserError: there are no shards, or one is damaged.
    """
    return _spread([_pair(row) for row in _rows(folder)], count)


def read_prompts(folders: Sequence[Path], tokenizer: PreTrainedTokenizerBase, count: int) -> list[Prompt]:
    """At most ``count`` different prompts, each with its ``verified_answer`` or ``chosen`` as reference.

    Raises:
        UserError: there are no shards, or one is damaged.
    """
    prompts: dict[tuple[int, ...], Prompt] = {}
    for row in (row for folder in folders for row in _rows(folder)):
        if "chosen" in row:
            pair = _pair(row)
            tokens, reference = pair.prompt, tokenizer.decode(pair.chosen, skip_special_tokens=True)
        else:
            tokens, reference = integers(row["prompt"]).tolist(), row.get("verified_answer", "")
        prompts.setdefault(tuple(tokens), Prompt(tokens, reference))
    return _spread(list(prompts.values()), count)
