"""Rows of raw data from files of every kind."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from compose_rl.data.sources import count_rows, rows
from compose_rl.errors import UserError

ROWS = [{"prompt": 'a, "b"', "chosen": "ü\nc"}, {"prompt": "d", "chosen": "e"}, {"prompt": "f", "chosen": ""}]


def jsonl(path: Path, items: list[dict] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def write_gz(path: Path) -> None:
    with gzip.open(path, "wt") as stream:
        stream.writelines(json.dumps(item) + "\n" for item in ROWS)


def write_csv(path: Path) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["prompt", "chosen"])
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("r.jsonl", jsonl),
        ("r.jsonl.gz", write_gz),
        ("r.json", lambda path: path.write_text(json.dumps(ROWS))),
        ("r.csv", write_csv),
        ("r.parquet", write_parquet),
    ],
)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str, write) -> None:
    write(tmp_path / name)
    assert list(rows(tmp_path / name)) == ROWS


def test_rows_of_lists_survive_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    messages = [{"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(messages), tmp_path / "m.parquet")
    assert list(rows(tmp_path / "m.parquet")) == messages


def test_files_of_a_folder_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    jsonl(tmp_path / "b.jsonl", ROWS[:1])
    jsonl(tmp_path / "a.jsonl", ROWS[1:])
    (tmp_path / "README.md").write_text("not data")
    assert list(rows(tmp_path)) == ROWS[1:] + ROWS[:1]


@pytest.mark.parametrize(
    "name", ["train.jsonl", "train-00000-of-00001.jsonl", "x.train.jsonl", "train/0.jsonl"]
)
def test_a_split_of_a_folder_is_its_files_of_that_name(tmp_path: Path, name: str) -> None:
    jsonl(tmp_path / name, ROWS[:2])
    jsonl(tmp_path / "test.jsonl", ROWS[2:])
    assert list(rows(tmp_path, "train")) == ROWS[:2]


def test_rows_are_counted_without_parsing_where_that_is_possible(tmp_path: Path) -> None:
    write_parquet(tmp_path / "r.parquet")
    assert count_rows(jsonl(tmp_path / "r.jsonl")) == 3
    assert count_rows(tmp_path / "r.parquet") == 3
    write_csv(tmp_path / "r.csv")
    assert count_rows(tmp_path / "r.csv") is None


def test_rows_are_streamed(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\nnot json\n")
    stream = rows(path)
    assert next(stream) == ROWS[0]
    with pytest.raises(UserError, match=r"r.jsonl, line 2: not JSON"):
        next(stream)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.jsonl", b"[1]\n", "line 1: a row must be an object, this is list"),
        ("r.json", b'{"a": 1}', "must be a list of objects"),
        ("r.json", b"[1]", "row 1: must be an object"),
        ("r.json", b"[", "cannot be read"),
        ("r.jsonl.gz", b"not gzip", "cannot be read"),
        ("r.parquet", b"not parquet", "cannot be read"),
        ("r.xlsx", b"", "not a kind of file that can be read; it takes .jsonl"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        list(rows(tmp_path / name))
    assert name in str(error.value)


def test_a_gz_cut_short_is_an_error(tmp_path: Path) -> None:
    write_gz(tmp_path / "r.jsonl.gz")
    data = (tmp_path / "r.jsonl.gz").read_bytes()
    (tmp_path / "r.jsonl.gz").write_bytes(data[:-9])
    with pytest.raises(UserError, match="cannot be read"):
        list(rows(tmp_path / "r.jsonl.gz"))


def test_a_place_without_data_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        list(rows(tmp_path / "missing"))
    with pytest.raises(UserError, match="holds no data file of split 'test'"):
        jsonl(tmp_path / "train.jsonl")
        list(rows(tmp_path, "test"))
