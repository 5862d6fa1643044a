"""What lies beside an attempt, and how results already there are found."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from compose_rl.config.schema import Config
from compose_rl.errors import UserError
from compose_rl.store import NotFound, Store, join, split
from compose_rl.store.checksums import cache_root, locked, verify
from compose_rl.store.manifest import MANIFEST_NAME, Manifest

__all__ = ["FAILURE_NAME", "JOB_NAME", "Failure", "JobFile", "fetched", "published"]

JOB_NAME = "job.json"
FAILURE_NAME = "failure.json"


class JobFile(Config):
    """``<attempt>/job.json``: all that an attempt needs to know."""

    stage: str
    key: str
    attempt: str = ""
    storage: str
    config: dict[str, Any]
    inputs: dict[str, Manifest]
    nodes: int = 1
    procs: int = 1
    """Processes on each node."""
    lease_minutes: float | None = None
    """The job leaves when no launcher's lease on the key was renewed for so long; None: it has no leases."""

    @property
    def folder(self) -> str:
        """``<stage>/<key>/<attempt>``, below the storage."""
        return f"{self.stage}/{self.key}/{self.attempt}"


class Failure(Config):
    """``<attempt>/failure.json``: why an attempt ended without a result."""

    exit_code: int
    message: str


def published(store: Store, stage: str, key: str) -> Manifest | None:
    """The manifest of a key, or None while there is none."""
    place = f"{stage}/{key}/{MANIFEST_NAME}"
    try:
        data = store.read(place)
    except NotFound:
        return None
    return Manifest.from_json(data, join(store.uri, place))


def fetched(manifest: Manifest, output: str) -> Path:
    """The verified local folder of a manifest's output."""
    found = manifest.output(output)
    remedy = f"remove {manifest.uri} and run stage '{manifest.stage}' again"
    if "://" not in found.uri:
        verify(Path(found.uri), found.files, remedy)
        return Path(found.uri)
    folder = cache_root() / "inputs" / manifest.stage / manifest.key / manifest.attempt / output
    with locked(folder.with_name(f"{output}.lock")):
        try:
            verify(folder, found.files, remedy)
        except UserError:
            shutil.rmtree(folder, ignore_errors=True)
            store, name = split(found.uri)
            store.download(name, folder)
            verify(folder, found.files, remedy)
    return folder
