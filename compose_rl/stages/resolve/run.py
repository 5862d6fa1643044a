"""Look at a source and write down what it is now. Light: runs in the launcher's own process, every time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compose_rl.errors import UserError
from compose_rl.progress import Progress
from compose_rl.stages.provenance import commit, image, versions
from compose_rl.stages.resolve import content, hub
from compose_rl.stages.resolve.spec import SPEC, ResolveConfig
from compose_rl.store import Store, join, open_store, split
from compose_rl.store.manifest import MANIFEST_NAME, File, Manifest, canonical_json, digest, stage_key

__all__ = ["pin"]

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclass(frozen=True)
class Pinned:
    """A source as it is now."""

    identity: dict[str, Any]
    """What the content is, wherever it lies: part of the key."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the manifest's ``info`` says besides."""


def pin(config: ResolveConfig, store: Store) -> Manifest:
    """The manifest of the source's present content; its key depends on that alone, not on its name or place.

    The same content may lie in several places, so each place has a manifest of its own below the key.

    Raises:
        UserError: the source is not there, cannot be read or is of no use.
        TransientError: hub or storage cannot be reached.
    """
    started = time.monotonic()
    pinned = _place(config)(config, store)
    identity = {"kind": config.kind, "split": config.split, "subset": config.subset, **pinned.identity}
    key = stage_key(SPEC.name, SPEC.version, identity, {}, {})
    info = {"kind": config.kind, "split": config.split, "subset": config.subset, **pinned.facts}
    attempt = f"at-{digest(canonical_json([config.model_dump(mode='json'), info]).encode())[:16]}"
    path = f"{SPEC.name}/{key}/{attempt}/{MANIFEST_NAME}"
    manifest = Manifest(
        stage=SPEC.name,
        version=SPEC.version,
        key=key,
        uri=join(store.uri, path),
        attempt=attempt,
        config=config.model_dump(mode="json"),
        info=info,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 3),
        versions=versions(),
        commit=commit(),
        image=image(),
    )
    if store.create(path, manifest.to_json().encode()):
        return manifest
    return Manifest.from_json(store.read(path), manifest.uri)


def _place(config: ResolveConfig) -> Callable[[ResolveConfig, Store], Pinned]:
    """Which kind of place the URI names."""
    if "://" in config.uri or Path(config.uri).expanduser().exists():
        return _files
    if content.data_format(config.uri) or not _HUB_ID.fullmatch(config.uri):
        raise UserError(
            f"resolve config: uri={config.uri!r}: no such file or folder;"
            " give a path, s3://bucket/path or a hub id"
        )
    return _hub


def _files(config: ResolveConfig, store: Store) -> Pinned:
    if config.revision is not None:
        raise UserError(f"resolve config: revision={config.revision!r}: only a hub id has one; leave it out")
    if config.subset is not None:
        raise UserError(f"resolve config: subset={config.subset!r}: only a hub dataset has one; leave it out")
    source, name = split(config.uri if "://" in config.uri else str(Path(config.uri).expanduser().absolute()))
    entries = source.list(name)
    if not entries:
        raise UserError(f"resolve config: uri={config.uri!r}: nothing there; check the path")
    single = entries[0].path == name
    if not single:
        source = open_store(join(source.uri, name))
        entries = source.list()
    chosen = content.chosen(config.kind, entries, config.uri)
    with Progress(SPEC.name).phase(
        f"checksums of {config.uri}", total=sum(entry.size for entry in chosen), unit="bytes"
    ) as phase:
        files = [
            File(path=entry.path, size=entry.size, sha256=sha256)
            for entry, sha256 in content.checksums(source, chosen, store, phase)
        ]
    # Of a single file's name only the format means something.
    named = [
        [content.data_format(file.path) if single else file.path, file.size, file.sha256] for file in files
    ]
    facts: dict[str, Any] = {
        "uri": join(source.uri, name) if single else source.uri,
        "files": [file.model_dump() for file in files],
    }
    if config.kind == "model":
        names = {file.path for file in files}
        facts |= content.model_facts(source.read("config.json") if "config.json" in names else None)
    return Pinned({"files": named}, facts)


def _hub(config: ResolveConfig, store: Store) -> Pinned:
    sha, names = hub.commit(config.kind, config.uri, config.revision)
    facts: dict[str, Any] = {"uri": config.uri, "revision": sha}
    if config.kind == "model":
        content.refuse_pickles(names, config.uri)
        facts |= content.model_facts(
            hub.read(config.uri, sha, "config.json") if "config.json" in names else None
        )
    return Pinned({"revision": sha}, facts)
