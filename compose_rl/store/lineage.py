"""From a manifest back to the raw data: every manifest that it came from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from compose_rl.store.manifest import MANIFEST_NAME, Manifest
from compose_rl.store.uri import join, split

__all__ = ["ancestry", "read_manifest"]


def read_manifest(uri: str) -> Manifest:
    """The manifest at ``uri``, or in the folder that it names.

    Raises:
        UserError: it cannot be read or is not whole.
    """
    if "://" not in uri and Path(uri).is_dir():
        uri = join(uri, MANIFEST_NAME)
    store, name = split(uri)
    return Manifest.from_json(store.read(name), uri)


def ancestry(manifests: Iterable[Manifest]) -> list[Manifest]:
    """The given manifests and all that they came from, each once, inputs before what was made of them.

    Raises:
        UserError: one of them cannot be read or is not whole.
    """
    found: dict[str, Manifest] = {}

    def visit(manifest: Manifest) -> None:
        if manifest.key in found:
            return
        for parent in manifest.inputs.values():
            if parent.key not in found:
                visit(read_manifest(parent.uri))
        found[manifest.key] = manifest

    for manifest in manifests:
        visit(manifest)
    return list(found.values())
