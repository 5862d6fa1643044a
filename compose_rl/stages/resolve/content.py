"""Which files of a source count, and what they hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from compose_rl.config.reward_model import model_class, scores_per_text
from compose_rl.errors import UserError
from compose_rl.progress import Phase
from compose_rl.store import Entry, NotFound, Store
from compose_rl.store.checksums import file_sha256
from compose_rl.store.folder import FolderStore
from compose_rl.store.manifest import digest

__all__ = ["DATA_FORMATS", "PICKLES", "checksums", "chosen", "data_format", "model_facts", "refuse_pickles"]

DATA_FORMATS = (".jsonl.gz", ".jsonl", ".json", ".parquet", ".csv")
"""Files of a dataset, by the end of their names."""
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".ckpt"})
"""Files that run code when they are loaded; never read."""


def chosen(kind: str, entries: Sequence[Entry], uri: str) -> list[Entry]:
    """The entries that belong to a source of this kind.

    Raises:
        UserError: none does, or a model has its weights only as pickles.
    """
    visible = [e for e in entries if not any(part.startswith(".") for part in PurePosixPath(e.path).parts)]
    if kind == "dataset":
        found = [entry for entry in visible if data_format(entry.path)]
        if not found:
            known = ", ".join(DATA_FORMATS)
            raise UserError(f"resolve config: uri={uri!r}: no data files there; it takes {known}")
        return found
    refuse_pickles([entry.path for entry in visible], uri)
    found = [entry for entry in visible if Path(entry.path).suffix not in PICKLES]
    if not any(PurePosixPath(entry.path).suffix == ".json" for entry in found):
        raise UserError(f"resolve config: uri={uri!r}: no config.json; give a Hugging Face model folder")
    return found


def data_format(path: str) -> str:
    """The format of a data file, one of ``DATA_FORMATS``; empty for any other file."""
    return next((end for end in DATA_FORMATS if path.endswith(end)), "")


def refuse_pickles(names: Iterable[str], uri: str) -> None:
    """Raise UserError for a model whose weights are there only as pickles."""
    suffixes = {PurePosixPath(name).suffix for name in names}
    if suffixes & PICKLES and ".safetensors" not in suffixes:
        found = ", ".join(sorted(suffixes & PICKLES))
        raise UserError(
            f"resolve config: uri={uri!r}: its weights are there only as {found},"
            " which run code when loaded; convert them to safetensors"
        )


def checksums(
    source: Store, entries: Sequence[Entry], store: Store, phase: Phase
) -> Iterator[tuple[Entry, str]]:
    """Each entry with its SHA-256; what has not changed since the last time is not read again.

    Notes on local files are kept in this machine's cache, those on S3 objects (by ETag) in the storage,
    since a pod's own disk forgets.
    """
    if isinstance(source, FolderStore):
        root = source.root
        yield from _all(lambda entry: file_sha256(root / entry.path), entries, phase)
        return
    place = f"resolve/checksums/{digest(source.uri.encode())}.json"
    notes = _notes(store, place)
    fresh: dict[str, list[str]] = {}

    def one(entry: Entry) -> str:
        tag, sha256 = notes.get(entry.path, ["", ""])
        if tag != f"{entry.tag}-{entry.size}":
            sha256 = source.sha256(entry.path)
        fresh[entry.path] = [f"{entry.tag}-{entry.size}", sha256]
        return sha256

    yield from _all(one, entries, phase)
    if fresh != {path: notes.get(path) for path in fresh}:
        store.write(place, json.dumps({**notes, **fresh}).encode())


def model_facts(config: bytes | None) -> dict[str, Any]:
    """What later stages check without loading the model."""
    if config is None:
        return {}
    try:
        document = json.loads(config)
    except ValueError as error:
        raise UserError(f"config.json of the model is not JSON ({error}); download the model again") from None
    names = ("model_type", "architectures", "vocab_size")
    facts = {name: document[name] for name in names if name in document}
    return facts if model_class(document) is None else facts | {"num_labels": scores_per_text(document)}


def _all(
    function: Callable[[Entry], str], entries: Sequence[Entry], phase: Phase
) -> Iterator[tuple[Entry, str]]:
    with ThreadPoolExecutor(4) as pool:
        for entry, sha256 in zip(entries, pool.map(function, entries), strict=True):
            phase.advance(entry.size)
            yield entry, sha256


def _notes(store: Store, place: str) -> dict[str, list[str]]:
    try:
        return json.loads(store.read(place))
    except (NotFound, ValueError):
        return {}
