"""The choice of a store by URI."""

from __future__ import annotations

from pathlib import Path

from compose_rl.errors import UserError
from compose_rl.store.base import Store

__all__ = ["join", "open_store", "split"]


def open_store(uri: str) -> Store:
    """The store whose root is ``uri``: a local path or ``s3://bucket/prefix``.

    Raises:
        UserError: the scheme is neither.
    """
    scheme, found, rest = uri.partition("://")
    if not found or scheme == "file":
        from compose_rl.store.folder import FolderStore

        return FolderStore(Path(rest if found else uri))
    if scheme == "s3":
        from compose_rl.store.s3 import S3Store

        return S3Store(uri)
    raise UserError(
        f"storage '{uri}': scheme '{scheme}' is not supported; use a folder or s3://bucket/prefix"
    )


def join(uri: str, *parts: str) -> str:
    """``uri/part/part``."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def split(uri: str) -> tuple[Store, str]:
    """The store that holds the file at ``uri``, and the file's path in it."""
    folder, _, name = uri.rstrip("/").rpartition("/")
    if not folder and not uri.startswith("/"):
        folder = "."
    return open_store(folder or "/"), name
