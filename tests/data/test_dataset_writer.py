"""Shards: read back without the library that wrote them, and the same for any number of workers."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from compose_rl.config.data import TokenizeOptions
from compose_rl.data import dataset_writer
from compose_rl.data.dataset_writer import DatasetWriter, ShardFormat, hold_out, prepared_rows
from compose_rl.data.encoding import load_tokenizer
from compose_rl.data.tokenizing import TokenizedSample
from compose_rl.errors import UserError

PAIRS = TokenizeOptions(dataset_type="preference", max_length=60)


def pairs(count: int, **more: Any) -> list[dict]:
    return [
        {"prompt": f"the cat {i // 2}", "chosen": f"sat {i}", "rejected": "mat", **more} for i in range(count)
    ]


def write(folder: Path, tokenizer: Path, rows: list[dict], **how: Any) -> DatasetWriter:
    shards, workers = how.get("shards", ShardFormat()), how.get("workers", 1)
    writer = DatasetWriter(tokenizer, PAIRS, load_tokenizer(tokenizer).decode, shards, workers)
    stream, rewards = prepared_rows(iter(rows), PAIRS, "rows")
    folders = {name: folder / name for name in ("train", "validation")}
    writer.write(stream, rewards, folders, hold_out(how.get("fraction", 0.3), 17), lambda rows: None)
    return writer


def read_mds(folder: Path) -> list[dict[str, Any]]:
    """A reader of its own: header of sample offsets, then per sample the sizes of variable columns and the
    values."""
    samples = []
    for shard in json.loads((folder / "index.json").read_text())["shards"]:
        data = (folder / shard["raw_data"]["basename"]).read_bytes()
        (count,) = struct.unpack_from("<I", data)
        offsets = struct.unpack_from(f"<{count + 1}I", data, 4)
        for begin in offsets[:-1]:
            at = begin + 4 * shard["column_sizes"].count(None)
            sizes = iter(struct.unpack_from(f"<{shard['column_sizes'].count(None)}I", data, begin))
            sample = {}
            columns = zip(
                shard["column_names"], shard["column_encodings"], shard["column_sizes"], strict=True
            )
            for name, encoding, fixed in columns:
                size = fixed or next(sizes)
                value = data[at : at + size]
                sample[name] = struct.unpack("<d", value)[0] if encoding == "float64" else value
                at += size
            samples.append(sample)
    return samples


def test_shards_hold_the_tokens_as_bytes_of_int64(small_tokenizer: Path, tmp_path: Path) -> None:
    rows = pairs(5, chosen_reward=1.5, rejected_reward=-1)
    write(tmp_path, small_tokenizer, rows, fraction=0)
    tokenizer = load_tokenizer(small_tokenizer)
    found = read_mds(tmp_path / "train")
    assert [sorted(sample) for sample in found] == [
        ["chosen", "chosen_reward", "prompt", "rejected", "rejected_reward"]
    ] * 5
    for i, sample in enumerate(found):
        assert tokenizer.decode(np.frombuffer(sample["chosen"], np.int64)) == f"sat {i}<|end|>"
        assert tokenizer.decode(np.frombuffer(sample["rejected"], np.int64)) == "mat<|end|>"
        assert (sample["chosen_reward"], sample["rejected_reward"]) == (1.5, -1.0)
    assert read_mds(tmp_path / "validation") == []


def test_any_number_of_workers_writes_the_same_bytes(
    small_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_writer, "_CHUNK_ROWS", 3)
    monkeypatch.setattr("compose_rl.data.parallel._FEW", 1)
    rows = pairs(50)
    rows[20]["chosen"] = ""
    hashes, reports = [], []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        shards = ShardFormat("zstd", ("xxh64", "sha1"), size_limit=2000)
        reports.append(write(folder, small_tokenizer, rows, workers=workers, shards=shards).report.summary())
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        assert len(files) > 4, "several shards"
        hashes.append({str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files})
    assert hashes[0] == hashes[1]
    assert reports[0] == reports[1]


def test_shards_carry_the_hashes_that_were_asked_for(small_tokenizer: Path, tmp_path: Path) -> None:
    write(tmp_path, small_tokenizer, pairs(4), fraction=0, shards=ShardFormat("zstd", ("xxh64", "sha1")))
    [shard] = json.loads((tmp_path / "train" / "index.json").read_text())["shards"]
    packed = (tmp_path / "train" / shard["zip_data"]["basename"]).read_bytes()
    assert shard["compression"] == "zstd"
    assert shard["zip_data"]["hashes"]["sha1"] == hashlib.sha1(packed).hexdigest()
    assert sorted(shard["zip_data"]["hashes"]) == ["sha1", "xxh64"]


def test_a_prompt_is_never_in_both_splits(small_tokenizer: Path, tmp_path: Path) -> None:
    write(tmp_path, small_tokenizer, pairs(60))
    train = {sample["prompt"] for sample in read_mds(tmp_path / "train")}
    validation = {sample["prompt"] for sample in read_mds(tmp_path / "validation")}
    assert len(train) + len(validation) == 30
    assert train and validation and not train & validation


def sample(prompt_hash: int) -> TokenizedSample:
    return TokenizedSample(0, {}, 1, 1, 0, prompt_hash, 0)


def test_hold_out_takes_the_share_asked_for_and_depends_on_the_seed() -> None:
    hashes = [int(value) for value in np.random.default_rng(0).integers(0, 2**64, 4000, np.uint64)]
    split, other = hold_out(0.1, 1), hold_out(0.1, 2)
    held = {value for value in hashes if split(sample(value)) == "validation"}
    # A share of 0.1 of 4000 has a standard deviation of 19.
    assert abs(len(held) - 400) < 4 * 19
    again = {value for value in hashes if other(sample(value)) == "validation"}
    assert len(held & again) < 100
    assert not any(hold_out(0.0, 1)(sample(value)) == "validation" for value in hashes)


def test_duplicates_are_counted(small_tokenizer: Path, tmp_path: Path) -> None:
    writer = write(tmp_path, small_tokenizer, pairs(3) + pairs(2), fraction=0)
    assert writer.report.splits["train"].duplicates == 2


def test_no_rows_are_an_error() -> None:
    with pytest.raises(UserError, match=r"data.jsonl: no rows"):
        prepared_rows(iter([]), PAIRS, "data.jsonl")
