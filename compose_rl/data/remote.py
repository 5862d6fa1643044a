"""Shards that are read from a store while training goes on, each checked when it arrives."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path

from streaming import Stream

from compose_rl.errors import UserError
from compose_rl.store import Store, join, open_store
from compose_rl.store.checksums import file_sha256

__all__ = ["CheckedStream"]


class CheckedStream(Stream):
    """A stream whose files come through :mod:`compose_rl.store` and are what was recorded of them.

    Streaming itself knows only hashes that lie beside the shards, in the index.

    Args:
        remote: URI of the folder.
        local: where the files go.
        checksums: SHA-256 by path.
    """

    def __init__(self, remote: str, local: str, checksums: Mapping[str, str]) -> None:
        super().__init__(remote=remote, local=local)
        self._checksums = checksums

    def _download_file(self, from_basename: str, to_basename: str | None = None) -> str:
        assert self.remote is not None
        target = Path(self.local) / (to_basename or from_basename)
        arriving = target.with_name(f"{target.name}.arriving")
        _store(self.remote, os.getpid()).download(from_basename, arriving)
        found, expected = file_sha256(arriving), self._checksums.get(from_basename)
        if found != expected:
            arriving.unlink()
            raise UserError(
                f"{join(self.remote, from_basename)}: SHA-256 is {found[:12]}…, {(expected or 'none')[:12]}…"
                " expected (cut short or changed since it was recorded); remove its stage's manifest and run"
                " that again"
            )
        arriving.rename(target)
        return str(target)


@functools.cache
def _store(uri: str, process: int) -> Store:
    """One for all shards, so that connections are kept; a forked process needs connections of its own."""
    return open_store(uri)
