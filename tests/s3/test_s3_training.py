"""Training state on S3: a stage that crashed goes on from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tiny_training as tiny
import torch

from compose_rl.stages.attempt import fetched
from compose_rl.store import open_store
from compose_rl.store.manifest import Manifest

pytestmark = pytest.mark.s3

CRASH = """
import os
from composer.core import Callback
from llmfoundry.registry import callbacks


class Crash(Callback):
    def batch_start(self, state, logger):
        if state.timestamp.batch == 5 and "CRASH" in os.environ:
            raise RuntimeError("crash")


callbacks.register("crash", func=Crash)
"""


def trained(result: Manifest) -> dict[str, Any]:
    return torch.load(fetched(result, "checkpoint") / "model.pt", weights_only=False)["state"]["model"]


def test_a_crashed_stage_resumes_from_s3(
    s3: str, own_cache: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tiny.instruction_rows(40)
    data = tiny.data_manifest(tmp_path / "data", "instruction", rows[:32], rows[32:])
    inputs = {"model": tiny.model_manifest(tiny_model), "data": data}
    (tmp_path / "crash.py").write_text(CRASH)
    config = {
        "code_paths": [str(tmp_path / "crash.py")],
        "callbacks": {"crash": {}},
        "max_duration": "2ep",
        "global_train_batch_size": 8,
        "device_train_microbatch_size": 8,
        "device_eval_batch_size": 8,
        "save_interval": "2ba",
        "optimizer": {"lr": 0.01},
    }
    undisturbed = tiny.run_stage("sft", config, inputs, f"{s3}/one")
    monkeypatch.setenv("CRASH", "1")
    with pytest.raises(RuntimeError, match="crash"):
        tiny.run_stage("sft", config, inputs, f"{s3}/two")
    kept = [entry.path for entry in open_store(f"{s3}/two").list() if "/checkpoints/" in entry.path]
    assert [path.split("/checkpoints/")[1] for path in kept] == ["ba4.whole.json", "ba4/rank0.pt"]
    monkeypatch.delenv("CRASH")
    resumed = tiny.run_stage("sft", config, inputs, f"{s3}/two", attempt="a2")
    assert curve_of(resumed) == curve_of(undisturbed)
    expected, found = trained(undisturbed), trained(resumed)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def curve_of(result: Manifest) -> list[float]:
    folder = fetched(result, "curves")
    return tiny.losses((folder / "curves.jsonl").read_text())
