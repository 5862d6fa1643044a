"""A model of a hub: pinned by its commit, downloaded at that commit, without pickles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from local_hub import commit_of, local_hub

from compose_rl.launch import run_stage
from compose_rl.stages.resolve.spec import SPEC

pytest.importorskip("huggingface_hub")


def download(manifest: str, tmp_path: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: huggingface_hub reads its environment when it is imported."""
    code = (
        "import sys; from pathlib import Path\n"
        "from compose_rl.store.lineage import read_manifest\n"
        "from compose_rl.stages.sources import local_source\n"
        "print(local_source(read_manifest(sys.argv[1]), Path(sys.argv[2])))"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-c", code, manifest, str(tmp_path / "cache")]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_model_is_downloaded_at_its_commit_without_pickles(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models" / "org" / "tiny"
    repository.mkdir(parents=True)
    contents = {
        "config.json": '{"vocab_size": 7}',
        "model.safetensors": "weights",
        "pytorch_model.bin": "pickle",
    }
    for name, text in contents.items():
        (repository / name).write_text(text)
    with local_hub(tmp_path / "hub") as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        manifest = run_stage(SPEC, {"kind": "model", "uri": "org/tiny"}, {}, str(tmp_path / "store")).manifest
        result = download(manifest.uri, tmp_path, endpoint)
        assert result.returncode == 0, result.stderr
        changed = json.loads(Path(manifest.uri).read_text())
        changed["info"]["revision"] = "f" * 40
        (tmp_path / "changed.json").write_text(json.dumps(changed))
        refused = download(str(tmp_path / "changed.json"), tmp_path, endpoint)
    assert (manifest.info["revision"], manifest.info["vocab_size"]) == (commit_of(repository), 7)
    folder = Path(result.stdout.strip())
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_text() == "weights"
    assert refused.returncode == 1
    assert "UserError: model 'org/tiny' at ffffffffffff: no longer on the hub" in refused.stderr
