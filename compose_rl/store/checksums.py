"""SHA-256 of files, remembered by path, size and modification time."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from compose_rl.errors import UserError
from compose_rl.store.base import Entry
from compose_rl.store.folder import FolderStore, storage_errors
from compose_rl.store.manifest import File, digest

__all__ = ["cache_root", "describe", "file_sha256", "locked", "remembered", "verify"]

_FRESH_NS = 50_000_000
"""A file changed more recently than this may change again within one tick of the file system's clock."""


def cache_root() -> Path:
    """Where downloads and checksums lie: ``COMPOSE_RL_CACHE``, the user's cache, or a temporary folder."""
    given = os.environ.get("COMPOSE_RL_CACHE")
    root = (
        Path(given)
        if given
        else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "compose-rl"
    )
    try:
        root.mkdir(parents=True, exist_ok=True)
        if os.access(root, os.W_OK):
            return root
    except OSError:
        pass
    if given:
        raise UserError(f"COMPOSE_RL_CACHE={given}: cannot be written; choose a folder that can")
    # Containers often have no home that can be written.
    root = Path(tempfile.gettempdir()) / f"compose-rl-{os.getuid()}"
    root.mkdir(parents=True, exist_ok=True)
    return root


def remembered(place: str, tag: str) -> str | None:
    """The SHA-256 noted earlier for ``place`` while it had ``tag``."""
    try:
        note = json.loads(_note(place).read_text())
        return str(note["sha256"]) if note["tag"] == tag and note["place"] == place else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(place: str, tag: str, sha256: str) -> None:
    """Note the SHA-256 of ``place`` for as long as it has ``tag``."""
    note = _note(place)
    document = {"place": place, "tag": tag, "sha256": sha256}
    FolderStore(note.parent).write(note.name, json.dumps(document).encode())


def file_sha256(path: Path) -> str:
    """SHA-256 of a local file; read only if it has changed since the last time."""
    path = path.absolute()
    with storage_errors(path):
        status = path.stat()
        tag = f"{status.st_size}-{status.st_mtime_ns}"
        known = remembered(str(path), tag)
        if known is not None:
            return known
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time_ns() - status.st_mtime_ns > _FRESH_NS:
        remember(str(path), tag, sha256)
    return sha256


def describe(folder: Path) -> tuple[File, ...]:
    """All files below ``folder`` with size and SHA-256, sorted, their bytes on the disk."""
    entries = FolderStore(folder).list()
    for entry in entries:
        _sync(folder / entry.path)

    def one(entry: Entry) -> File:
        return File(path=entry.path, size=entry.size, sha256=file_sha256(folder / entry.path))

    with ThreadPoolExecutor(4) as pool:
        return tuple(pool.map(one, entries))


def verify(folder: Path, files: Sequence[File], remedy: str) -> None:
    """Check that ``folder`` holds ``files`` unchanged.

    Raises:
        UserError: names the first file that is missing, cut short or changed.
    """
    for file in files:
        path = folder / file.path
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            raise UserError(f"{path}: missing ({file.size} bytes expected); {remedy}")
        if size != file.size:
            raise UserError(
                f"{path}: has {size} bytes, {file.size} expected (cut short or changed); {remedy}"
            )

    def changed(file: File) -> bool:
        return file_sha256(folder / file.path) != file.sha256

    with ThreadPoolExecutor(4) as pool:
        for file, differs in zip(files, pool.map(changed, files), strict=True):
            if differs:
                actual = file_sha256(folder / file.path)
                raise UserError(
                    f"{folder / file.path}: SHA-256 is {actual[:12]}…, {file.sha256[:12]}… expected"
                    f" (changed since it was recorded); {remedy}"
                )


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold the lock file ``path``; other processes of this machine wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _note(place: str) -> Path:
    name = digest(place.encode())
    return cache_root() / "sha256" / name[:2] / name


def _sync(path: Path) -> None:
    with storage_errors(path), path.open("rb") as file:
        os.fsync(file.fileno())
