"""Supervised fine-tuning as a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tiny_training as tiny

from compose_rl.store.manifest import Manifest

pytestmark = pytest.mark.filterwarnings("ignore")

CONFIG: dict[str, Any] = {
    "precision": "fp32",
    "max_duration": "2ep",
    "global_train_batch_size": 8,
    "device_train_microbatch_size": 4,
    "optimizer": {"lr": 0.01},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Manifest]:
    rows = tiny.instruction_rows(80)
    data = tiny.data_manifest(tmp_path_factory.mktemp("sft-data"), "instruction", rows[:64], rows[64:])
    return {"model": tiny.model_manifest(tiny_model), "data": data}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Manifest]) -> Manifest:
    return tiny.run_stage("sft", CONFIG, inputs, tmp_path_factory.mktemp("store"))


def test_it_learns(result: Manifest) -> None:
    losses = tiny.curve(result)
    assert len(losses) == 16
    assert losses[-1] < 0.8 * losses[0]
    assert "metrics/eval/LanguageCrossEntropy" in result.metrics
    assert result.info["steps"] == 16
    assert result.info["vocab_size"] == tiny.VOCAB
    assert result.info["model_class"] == "causal_lm"
