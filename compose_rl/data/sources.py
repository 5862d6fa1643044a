"""Rows of raw data, streamed: jsonl (also .gz), json, parquet, csv, a folder of these, or a hub dataset's
snapshot."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from compose_rl.errors import TransientError, UserError

__all__ = ["Row", "count_rows", "hub_rows", "rows"]

Row = dict[str, Any]
_BATCH_ROWS = 1024


def rows(path: Path, split: str | None = None) -> Iterator[Row]:
    """Rows of a file, or of the files of a folder in the order of their names.

    Args:
        split: of a folder: its files ``<split>*`` or its subfolder ``<split>``. Of a file it is only a name.

    Raises:
        UserError: it cannot be read; the message names the file and the line.
    """
    for file in data_files(path, split):
        yield from _reader(file)(file)


def count_rows(path: Path, split: str | None = None) -> int | None:
    """How many rows there are, where that can be told without parsing them."""
    total = 0
    for file in data_files(path, split):
        if file.suffix == ".parquet":
            import pyarrow.parquet

            total += pyarrow.parquet.read_metadata(file).num_rows
        elif file.suffix == ".jsonl":
            with file.open("rb") as stream:
                total += sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
        else:
            return None
    return total


def hub_rows(
    place: str | Path, subset: str | None, split: str | None, name: str
) -> tuple[Iterator[Row], int]:
    """Rows of a hub dataset, and how many there are.

    Args:
        place: the folder of a pinned snapshot, or a hub id.
        name: what the dataset is called in messages.

    Raises:
        UserError: there is no such dataset, subset or split.
        TransientError: the hub cannot be reached.
    """
    import datasets

    datasets.disable_progress_bars()
    split = split or "train"
    try:
        data = datasets.load_dataset(str(place), name=subset, split=split, trust_remote_code=False)
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"dataset '{name}', subset {subset!r}, split {split!r}: {' '.join(str(error).split())};"
            " check name, subset and split"
        ) from None
    except OSError as error:
        raise TransientError(
            f"dataset '{name}': the hub does not answer ({' '.join(str(error).split())}); check the network"
        ) from error
    return _table_rows(data), len(data)


def _table_rows(data: Any) -> Iterator[Row]:
    for batch in data.iter(_BATCH_ROWS):
        names = list(batch)
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(names, values, strict=True))


def data_files(path: Path, split: str | None) -> list[Path]:
    """The files that rows are read from.

    Raises:
        UserError: there is none.
    """
    if path.is_file():
        _reader(path)
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder; give a file ({_kinds()}) or a folder of them")
    folder = path / split if split and (path / split).is_dir() else path
    found = sorted(file for file in folder.rglob("*") if file.is_file() and _kind(file) in _READERS)
    if split and folder == path:
        found = [file for file in found if split in file.name.replace("-", ".").replace("_", ".").split(".")]
    if not found:
        of_split = f" of split '{split}'" if split else ""
        raise UserError(f"{path}: holds no data file{of_split}; it takes {_kinds()}")
    return found


def _kind(path: Path) -> str:
    return "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix


def _kinds() -> str:
    return ", ".join(_READERS)


def _reader(path: Path) -> Callable[[Path], Iterator[Row]]:
    if _kind(path) not in _READERS:
        raise UserError(f"{path}: not a kind of file that can be read; it takes {_kinds()}")
    return _READERS[_kind(path)]


def _jsonl(path: Path) -> Iterator[Row]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _object(line, f"{path}, line {number}")
    except (OSError, EOFError) as error:
        raise _unreadable(path, error) from None


def _object(text: bytes, where: str) -> Row:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}); mend or remove it") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: a row must be an object, this is {type(row).__name__}; mend or remove it")
    return row


def _json(path: Path) -> Iterator[Row]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if not isinstance(document, list):
        raise UserError(f"{path}: must be a list of objects; write an object a line in a .jsonl file instead")
    for number, row in enumerate(document, 1):
        if not isinstance(row, dict):
            raise UserError(f"{path}, row {number}: must be an object, this is {type(row).__name__}; mend it")
        yield row


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH_ROWS):
                yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise _unreadable(path, error) from None


def _csv(path: Path) -> Iterator[Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            yield from csv.DictReader(lines)
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be read ({error}); check that it is whole and that you may read it")


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".jsonl.gz": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".csv": _csv,
}
