"""Reading MDS shards: ours and Compose RL's."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from streaming import Stream, StreamingDataset
from streaming.base.world import World

from compose_rl.config.data import LoaderDataset
from compose_rl.data.remote import CheckedStream
from compose_rl.errors import UserError
from compose_rl.store.checksums import locked

__all__ = ["Sample", "ShardDataset", "check_shards", "integers"]

Sample = dict[str, Any]
Tokens = NDArray[np.int64]


def integers(value: Any) -> Tokens:
    """A token column as int64 [n]: the bytes of int64 values, or an array."""
    return np.frombuffer(value, np.int64) if isinstance(value, bytes) else np.asarray(value, np.int64)


def check_shards(folder: Path) -> None:
    """Compare the shards in ``folder`` with their index.

    Raises:
        UserError: there is no index, it holds no samples, or a shard is shorter than it says.
    """
    index = folder / "index.json"
    if not index.is_file():
        raise UserError(f"{folder}: no index.json, so no shards; give a folder that the tokenize stage wrote")
    try:
        shards = json.loads(index.read_text())["shards"]
    except (ValueError, KeyError):
        raise UserError(f"{index}: not a whole index; copy or tokenize the data again") from None
    if not sum(shard["samples"] for shard in shards):
        raise UserError(f"{folder}: holds no samples; tokenize data with rows for this split")
    for shard in shards:
        for kind in ("raw_data", "zip_data"):
            info = shard[kind]
            path = folder / info["basename"] if info else None
            if path and path.is_file():
                _check_size(path, info["bytes"])


def _check_size(path: Path, size: int) -> None:
    found = path.stat().st_size
    if found != size:
        raise UserError(f"{path}: truncated shard, {found} of {size} bytes; copy or tokenize the data again")


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Hold back other processes of this machine that set up a dataset.

    Streaming looks for a free name in shared memory and then takes it: two jobs that start at once would want
    the same one. Within a job only the first process of the machine does so; the others wait for it. Nodes of
    one job wait for each other meanwhile, so they must not hold each other back; a pod has shared memory of
    its own anyway.
    """
    world = World.detect()
    if world.num_nodes > 1 or not world.is_local_leader:
        yield
        return
    with locked(Path(tempfile.gettempdir()) / f"compose-rl-streaming-{os.getuid()}.lock"):
        yield


class ShardDataset(StreamingDataset):
    """Samples of MDS shards, decoded to arrays, in StreamingDataset's deterministic and resumable order.

    Args:
        decode: makes a sample of a row's columns; told the sample's index by ``index`` in the result.
        pair: combines a sample with the next one of the dataset, (i + 1) mod N, for instance for KTO.
    """

    _failed: BaseException | None = None
    """What went wrong in a thread that downloads."""

    def __init__(
        self,
        config: LoaderDataset,
        decode: Callable[[Sample], Sample],
        batch_size: int | None = None,
        pair: Callable[[Sample, Sample], Sample] | None = None,
    ) -> None:
        if config.local and not config.remote and not config.streams:
            check_shards(Path(config.local) / (config.split or ""))
        place: dict[str, Any] = config.streaming()
        if config.remote and config.local and config.checksums is not None:
            place |= {"streams": [CheckedStream(config.remote, config.local, config.checksums)]}
            place |= {"local": None, "remote": None}
        if config.streams:
            place |= {"streams": [Stream(**stream) for stream in config.streams.values()]}
            place |= {"local": None, "remote": None}
        with _alone():
            super().__init__(**place, batch_size=batch_size)
        self.max_seq_len = config.max_seq_len
        self._decode = decode
        self._pair = pair
        self._whole: set[int] = set()

    def __iter__(self) -> Iterator[Sample]:
        yield from super().__iter__()
        if self._failed is not None:  # streaming takes a failed download for the end of the epoch
            raise self._failed

    def on_exception(self, future: Future[Any]) -> None:
        self._failed = future.exception() or self._failed
        super().on_exception(future)

    def get_item(self, sample_id: int, retry: int = 7) -> Sample:
        """Sample number ``sample_id`` of the dataset.

        Raises:
            UserError: the shard is damaged or the sample longer than ``max_seq_len``.
        """
        sample = self._read(sample_id, retry)
        if self._pair is not None:
            sample = self._pair(sample, self._read((sample_id + 1) % self.num_samples, retry))
        return sample

    def _read(self, sample_id: int, retry: int) -> Sample:
        shard_id = self.spanner[sample_id][0]
        try:
            raw = super().get_item(sample_id, retry)
        except (ValueError, IndexError):
            self._check_size(shard_id)
            raise
        except RuntimeError:
            if self._failed is not None:
                raise self._failed from None
            raise
        # A value cut short in the file would else be read as a shorter one.
        if shard_id not in self._whole:
            self._check_size(shard_id)
            self._whole.add(shard_id)
        sample = self._decode(raw)
        if sample["length"] > self.max_seq_len:
            raise UserError(
                f"sample {sample_id} has {sample['length']} tokens, over max_seq_len {self.max_seq_len};"
                " raise max_seq_len or tokenize with a smaller max_length"
            )
        sample["index"] = sample_id
        return sample

    def _check_size(self, shard_id: int) -> None:
        shard = self.shards[shard_id]
        _check_size(Path(shard.dirname) / shard.split / shard.raw_data.basename, shard.raw_data.bytes)
