"""Shards in S3 are fetched one by one, and none is read that is not what was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("streaming")

import numpy as np
from streaming import MDSWriter

from compose_rl.config.data import LoaderDataset
from compose_rl.data.decode import decode_preference
from compose_rl.data.shards import ShardDataset
from compose_rl.errors import UserError
from compose_rl.store import NotFound, open_store
from compose_rl.store.checksums import describe

pytestmark = pytest.mark.s3

ROWS = 300


@pytest.fixture(params=[None, "zstd"])
def shards(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    columns = dict.fromkeys(("prompt", "chosen", "rejected"), "bytes")
    with MDSWriter(
        out=str(tmp_path / "shards"), columns=columns, size_limit=2000, compression=request.param
    ) as writer:
        for row in range(ROWS):
            tokens = np.array([row, row + 1], np.int64).tobytes()
            writer.write(dict.fromkeys(columns, tokens))
    return tmp_path / "shards"


def remote(shards: Path, uri: str, local: Path) -> LoaderDataset:
    open_store(uri).upload(shards, "train")
    return LoaderDataset(
        remote=f"{uri}/train",
        local=str(local),
        checksums={file.path: file.sha256 for file in describe(shards)},
        max_seq_len=8,
        predownload=1,
    )


def read(config: LoaderDataset) -> list[Any]:
    return [sample["index"] for sample in ShardDataset(config, decode_preference, 4)]


def test_shards_are_fetched_when_they_are_needed(
    s3: str, own_cache: Path, shards: Path, tmp_path: Path
) -> None:
    config = remote(shards, s3, tmp_path / "local")
    samples = iter(ShardDataset(config, decode_preference, 4))
    next(samples)
    total = len(list(shards.iterdir()))
    assert total > 10
    assert len(list((tmp_path / "local").iterdir())) < total // 2
    assert [0, *(sample["index"] for sample in samples)] == list(range(ROWS))
    assert not list((tmp_path / "local").glob("*.arriving"))


@pytest.mark.parametrize("number", [0, 7])
def test_a_changed_shard_is_not_read(
    s3: str, own_cache: Path, shards: Path, tmp_path: Path, number: int
) -> None:
    config = remote(shards, s3, tmp_path / "local")
    name = sorted(path.name for path in shards.glob("shard*"))[number]
    changed = bytearray((shards / name).read_bytes())
    changed[-1] ^= 1
    open_store(s3).write(f"train/{name}", bytes(changed))
    with pytest.raises(UserError, match=rf"train/{name}: SHA-256 is .*… expected \(cut short or changed"):
        read(config)


def test_a_shard_or_an_index_that_is_gone_is_named(
    s3: str, own_cache: Path, shards: Path, tmp_path: Path
) -> None:
    config = remote(shards, s3, tmp_path / "local")
    name = sorted(path.name for path in shards.glob("shard*"))[-1]
    open_store(s3).delete(f"train/{name}")
    with pytest.raises(NotFound, match=rf"train/{name}: not found"):
        read(config)
    open_store(s3).write("train/index.json", b"{}")
    with pytest.raises(UserError, match=r"train/index\.json: SHA-256 is"):
        read(config.model_copy(update={"local": str(tmp_path / "other")}))
