"""Which saved training state may be resumed from: a whole one, whose content is what its attempt wrote.

Composer reads training state with ``torch.load(weights_only=False)``, so it is read only where the SHA-256 of
every file matches the seal that the attempt put beside it, after it. Imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from compose_rl.store import Store, open_store
from compose_rl.store.checksums import locked

__all__ = ["SEAL_SUFFIX", "content_digest", "joined", "newest_whole", "seal", "sealed_batches"]

SEAL_SUFFIX = ".whole.json"


@dataclass(frozen=True)
class _Sealed:
    batch: int
    load: str
    """What Composer loads, below the folder: the file, or the folder of shards."""
    files: Mapping[str, str]
    """SHA-256 by path below the folder."""


def seal(store: Store, *, batch: int, load: str, files: Mapping[str, str]) -> None:
    """Declare the training state after ``batch`` steps whole; write this last."""
    text = json.dumps({"batch": batch, "load": load, "files": dict(files)})
    store.write(f"ba{batch}{SEAL_SUFFIX}", text.encode())


def sealed_batches(store: Store) -> list[int]:
    """The steps after which whole training states lie in the folder, newest first."""
    return [found.batch for found in _seals(store)]


def newest_whole(folders: list[str], scratch: Path, say: Callable[[str], None]) -> Path | None:
    """The newest whole training state in ``folders`` (newest first), as a local file or folder, or None.

    Args:
        folders: what :meth:`compose_rl.stages.job.Job.earlier_checkpoints` gives.
        scratch: where to put what lies in S3; the processes of a machine share it.
        say: told of every state that is passed over.
    """
    for number, uri in enumerate(folders):
        store = open_store(uri)
        for sealed in _seals(store):
            with locked(scratch / f"{number}.lock"):  # the other processes of this machine find it there
                local = _local(store, sealed, scratch / str(number))
            broken = [path for path, digest in sealed.files.items() if _digest(local / path) != digest]
            if not broken:
                return local / sealed.load
            say(f"not resuming from {uri}/{sealed.load}: {broken[0]} is not what was written")
    return None


def joined(shards: Path, target: Path) -> Path:
    """A sharded state as one file, ``target``, for processes that do not shard; made by one of a machine."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    with locked(target.with_suffix(".lock")):
        if not target.exists():
            partial = target.with_suffix(".partial")
            dcp_to_torch_save(shards, partial)
            partial.rename(target)
    return target


def _seals(store: Store) -> list[_Sealed]:
    names = [entry.path for entry in store.list() if entry.path.endswith(SEAL_SUFFIX)]
    sealed = [_Sealed(**json.loads(store.read(name))) for name in names]
    return sorted(sealed, key=lambda found: found.batch, reverse=True)


def _local(store: Store, sealed: _Sealed, target: Path) -> Path:
    if "://" not in store.uri:
        return Path(store.uri)
    present = {entry.path for entry in store.list()}
    for path in sealed.files:
        if path in present and not (target / path).exists():
            partial = target / f"{path}.partial"
            store.download(path, partial)
            partial.rename(target / path)
    return target


def content_digest(path: Path) -> str:
    """SHA-256 of a file as it is now, from no cache: it is about to be unpickled."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(path: Path) -> str | None:
    return content_digest(path) if path.is_file() else None
