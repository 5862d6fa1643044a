"""Rows in, shards and a report out: what the ``tokenize`` stage and the command line share."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compose_rl.config.data import TokenizeOptions
from compose_rl.data.conversations import check_columns, has_rewards
from compose_rl.data.parallel import tokenized
from compose_rl.data.report import DataReport, SplitReport
from compose_rl.data.sources import Row
from compose_rl.data.tokenizing import TokenizedSample, chunks, shard_columns
from compose_rl.errors import UserError

__all__ = ["DatasetWriter", "ShardFormat", "hold_out", "prepared_rows"]

_CHUNK_ROWS = 256
_SHOWN = 2


@dataclass(frozen=True)
class ShardFormat:
    """How shards are written."""

    compression: str | None = None
    hashes: tuple[str, ...] = ()
    size_limit: int = 1 << 26
    """Bytes."""


def hold_out(fraction: float, seed: int) -> Callable[[TokenizedSample], str]:
    """Which split a sample belongs to, by its prompt alone: the same prompt is never on both sides."""
    limit = int(fraction * 2**64)
    mask = int.from_bytes(np.random.default_rng(seed).bytes(8), "big")

    def split(sample: TokenizedSample) -> str:
        # An odd multiplier permutes the 64-bit numbers, so that each seed holds out other prompts.
        mixed = (sample.prompt_hash ^ mask) * 0x9E3779B97F4A7C15 % 2**64
        return "validation" if mixed < limit else "train"

    return split


def prepared_rows(
    rows: Iterator[Row], options: TokenizeOptions, where: str, limit: int | None = None
) -> tuple[Iterator[Row], bool]:
    """The rows, once their columns are known to be those that are needed, and whether they have rewards.

    Raises:
        UserError: there are no rows, or they lack a column.
    """
    first = next(rows, None)
    if first is None:
        raise UserError(f"{where}: no rows; give a source, split or subset that has some")
    check_columns(options, first, where)
    return itertools.islice(itertools.chain([first], rows), limit), has_rewards(options, list(first))


class DatasetWriter:
    """Tokenizes rows over processes and writes them with a single writer per split, in the order of the rows.

    Args:
        tokenizer: folder or hub id that each process loads it from.
        decode: token ids to text, for the samples shown in the report.
    """

    def __init__(
        self,
        tokenizer: str | Path,
        options: TokenizeOptions,
        decode: Callable[[Any], str],
        shards: ShardFormat,
        workers: int | None = None,
    ) -> None:
        self.report = DataReport()
        self._tokenizer = tokenizer
        self._options = options
        self._decode = decode
        self._shards = shards
        self._workers = workers or len(os.sched_getaffinity(0))
        self._seen: dict[str, set[int]] = {}

    def write(
        self,
        rows: Iterator[Row],
        rewards: bool,
        folders: dict[str, Path],
        split_of: Callable[[TokenizedSample], str],
        advance: Callable[[int], None],
    ) -> None:
        """Tokenize ``rows`` and write each sample to the split that ``split_of`` names.

        Args:
            rewards: the rows have rewards of both answers.
            folders: where each split's shards go.
            advance: told of rows that are done.
        """
        from streaming import MDSWriter

        columns = shard_columns(self._options.dataset_type, rewards)
        with ExitStack() as stack:
            writers = {}
            for name, folder in folders.items():
                self.report.splits.setdefault(name, SplitReport())
                self._seen.setdefault(name, set())
                writer = MDSWriter(
                    columns=columns,
                    out=str(folder),
                    compression=self._shards.compression,
                    hashes=sorted(self._shards.hashes),
                    size_limit=self._shards.size_limit,
                )
                writers[name] = stack.enter_context(writer)
            work = chunks(rows, _CHUNK_ROWS)
            for chunk in tokenized(work, self._tokenizer, self._options, rewards, self._workers):
                self.report.add(chunk)
                for sample in chunk.samples:
                    name = split_of(sample)
                    writers[name].write(sample.columns)
                    self._count(name, sample)
                advance(chunk.rows)

    def _count(self, name: str, sample: TokenizedSample) -> None:
        report, seen = self.report.splits[name], self._seen[name]
        report.lengths.append(sample.length)
        report.tokens += sample.tokens
        report.cut_rows += sample.cut > 0
        report.cut_tokens += sample.cut
        report.duplicates += sample.content_hash in seen
        seen.add(sample.content_hash)
        if len(report.shown) < _SHOWN:
            report.shown.append(_shown(sample, self._decode))


def _shown(sample: TokenizedSample, decode: Callable[[Sequence[int]], str]) -> dict[str, Any]:
    shown: dict[str, Any] = {"row": sample.row + 1}
    for name, value in sample.columns.items():
        if not isinstance(value, bytes):
            shown[name] = (
                value if isinstance(value, int | float | str) else json.dumps(value, ensure_ascii=False)
            )
        elif name == "label":
            shown[name] = np.frombuffer(value, np.int64).tolist()
        elif name == "labels":
            kept = np.frombuffer(value, np.int64)
            shown["tokens with loss"] = decode(kept[kept != -100].tolist())
        else:
            shown[name] = decode(np.frombuffer(value, np.int64).tolist())
    return shown
