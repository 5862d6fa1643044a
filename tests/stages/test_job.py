"""A stage through its real entry point: attempts, manifests, inputs, checkpoints."""

from __future__ import annotations

from pathlib import Path

from compose_rl.launch import run_stage
from compose_rl.stages.spec import StageSpec
from compose_rl.store.manifest import Manifest


def test_a_stage_writes_its_outputs_and_a_manifest_that_describes_them(
    toy: StageSpec, tmp_path: Path
) -> None:
    outcome = run_stage(toy, {"text": "abc"}, {}, str(tmp_path / "store"))
    manifest = outcome.manifest
    assert not outcome.cached
    folder = tmp_path / "store" / "toy" / manifest.key
    assert manifest == Manifest.from_json((folder / "manifest.json").read_text(), "manifest")
    assert manifest.uri == str(folder / "manifest.json")
    assert manifest.metrics == {"length": 3}
    output = manifest.output("text")
    assert output.uri == str(folder / manifest.attempt / "text")
    # printf abc | sha256sum
    assert [(file.path, file.size, file.sha256[:12]) for file in output.files] == [
        ("text.txt", 3, "ba7816bf8f01")
    ]
    assert sorted(path.name for path in (folder / manifest.attempt).iterdir()) == ["job.json", "text"]
