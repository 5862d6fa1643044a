"""A tiny model and preference data as finished stages in a storage: ``python tiny_inputs.py FOLDER STORAGE``.

Run in the training environment; prints the places of the two manifests.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import tiny_training as tiny

from compose_rl.store import join, open_store
from compose_rl.store.manifest import Manifest


def stored(manifest: Manifest, storage: str) -> str:
    """Move the outputs of a manifest into the storage; the place of the manifest that says so."""
    store, folder = open_store(storage), f"{manifest.stage}/{manifest.key}"
    outputs = {}
    for name, output in manifest.outputs.items():
        store.upload(Path(output.uri), f"{folder}/a0/{name}")
        outputs[name] = output.model_copy(update={"uri": join(storage, folder, "a0", name)})
    place = join(storage, folder, "manifest.json")
    moved = manifest.model_copy(update={"uri": place, "outputs": outputs})
    store.write(f"{folder}/manifest.json", moved.to_json().encode())
    return place


def main() -> None:
    folder, storage = Path(sys.argv[1]), sys.argv[2]
    rows = tiny.preference_rows(48)
    print(stored(tiny.model_manifest(tiny.write_model(folder / "model")), storage))
    print(stored(tiny.data_manifest(folder / "data", "preference", rows[:32], rows[32:]), storage))


if __name__ == "__main__":
    main()
