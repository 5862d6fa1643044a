"""The interface of a store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from compose_rl.errors import UserError

__all__ = ["Entry", "NotFound", "Store"]


class NotFound(UserError):  # noqa: N818 (an outcome that callers act on, like FileNotFoundError's reason)
    """Nothing lies at the path that was asked for."""


@dataclass(frozen=True)
class Entry:
    """A file in a store."""

    path: str
    """Relative to the store's root, with forward slashes."""
    size: int
    """Bytes."""
    tag: str
    """Changes when the content does: size and mtime of a local file, ETag of an S3 object."""
    modified: float
    """When it was written: seconds since the epoch, by the store's clock."""


class Store(Protocol):
    """Files below a root. Paths are relative to it, with forward slashes.

    Every method raises :class:`UserError` (no permission, no space, no bucket) or
    :class:`compose_rl.errors.TransientError` (the network, after retries).
    """

    uri: str
    """The root: an absolute path or ``s3://bucket/prefix``, without a slash at the end."""

    def read(self, path: str) -> bytes:
        """The content; raises :class:`NotFound`."""
        ...

    def sha256(self, path: str) -> str:
        """SHA-256 of the content, read now and never whole in memory; raises :class:`NotFound`."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Write or replace; a reader sees the old content or the new, never a part."""
        ...

    def create(self, path: str, data: bytes) -> bool:
        """Write unless something is there already (False); of several writers exactly one gets True."""
        ...

    def list(self, prefix: str = "") -> list[Entry]:
        """All files in the folder ``prefix`` and below (or the file of that name), sorted by path."""
        ...

    def folders(self, prefix: str = "") -> list[str]:
        """Names of the folders directly in the folder ``prefix``, sorted."""
        ...

    def upload(self, source: Path, path: str) -> None:
        """Copy a local file, or a folder with all below it, to ``path``."""
        ...

    def download(self, path: str, target: Path) -> None:
        """Copy the file or folder at ``path`` to the local ``target``; raises :class:`NotFound`."""
        ...

    def delete(self, path: str) -> None:
        """Remove the file or folder; nothing there is no error."""
        ...
