"""What lies in a storage and serves nobody any more: attempts that came to nothing, leases not renewed."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from compose_rl.errors import UserError
from compose_rl.stages.attempt import published
from compose_rl.store import Entry, Store
from compose_rl.store.leases import LEASES

__all__ = ["Attempt", "garbage", "lease_tags", "still_garbage"]

_KEY = re.compile(r"[0-9a-f]{64}")
_ATTEMPT = re.compile(r"\d{8}T\d{9}-[0-9a-f]{8}")  # as attempts.new_attempt makes them
_BESIDE_SECONDS = 24 * 3600.0
"""An attempt beside a result that was written to so recently may still run, and removes itself at its end."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The folder of an attempt."""

    stage: str
    key: str
    name: str
    size: int
    """Bytes."""
    modified: float
    """When something in it was written last: seconds since the epoch, by the store's clock."""
    beside_result: bool = False
    """Another attempt at the key gave the result."""

    @property
    def folder(self) -> str:
        return f"{self.stage}/{self.key}/{self.name}"


def garbage(
    store: Store, *, older_than: float, live: Collection[str], held: Collection[str]
) -> Iterator[Attempt]:
    """Attempts that can go; never what a manifest names.

    Those at a key without a result are what its next attempt resumes from: they go together, when none of
    them was written to for ``older_than`` seconds.

    Args:
        live: folders of attempts that run.
        held: keys that somebody waits for.
    """
    for stage in store.folders():
        if any(_KEY.fullmatch(name) for name in store.folders(stage)):
            for key, attempts in _by_key(stage, store.list(stage)).items():
                if key not in held and not any(attempt.folder in live for attempt in attempts):
                    yield from _of_key(store, stage, key, attempts, older_than)


def still_garbage(store: Store, attempt: Attempt, found: Iterable[Attempt]) -> bool:
    """Whether no attempt at its key has begun since ``found``, which might resume from this one."""
    known = {each.folder for each in found}
    present = store.folders(f"{attempt.stage}/{attempt.key}")
    now = {f"{attempt.stage}/{attempt.key}/{name}" for name in present if _ATTEMPT.fullmatch(name)}
    return attempt.beside_result or now <= known


def lease_tags(store: Store) -> dict[str, str]:
    """Every lease by path, with what changes when it is renewed."""
    return {entry.path: entry.tag for entry in store.list(LEASES)}


def _of_key(
    store: Store, stage: str, key: str, attempts: list[Attempt], older_than: float
) -> Iterator[Attempt]:
    now = time.time()
    try:
        manifest = published(store, stage, key)
    except UserError:  # not whole: for a person to look at
        return
    if manifest is not None:
        for attempt in attempts:
            if attempt.name != manifest.attempt and now - attempt.modified > _BESIDE_SECONDS:
                yield replace(attempt, beside_result=True)
    elif all(now - attempt.modified > older_than for attempt in attempts):
        yield from attempts


def _by_key(stage: str, entries: Iterable[Entry]) -> dict[str, list[Attempt]]:
    files: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        _, key, name, *_ = [*entry.path.split("/"), "", ""]
        if _KEY.fullmatch(key) and _ATTEMPT.fullmatch(name):
            files[key, name].append(entry)
    found: dict[str, list[Attempt]] = defaultdict(list)
    for (key, name), these in sorted(files.items()):
        size, modified = sum(entry.size for entry in these), max(entry.modified for entry in these)
        found[key].append(Attempt(stage=stage, key=key, name=name, size=size, modified=modified))
    return found
