"""Offline preference optimisation as a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tiny_training as tiny

from compose_rl.store.manifest import Manifest

CONFIG: dict[str, Any] = {
    "precision": "fp32",
    "max_duration": "3ep",
    "global_train_batch_size": 8,
    "device_train_microbatch_size": 8,
    "device_eval_batch_size": 8,
    "optimizer": {"lr": 0.003},
    "scheduler": {"name": "constant_with_warmup", "t_warmup": "0ba"},
}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Manifest]:
    rows = tiny.preference_rows(48)
    data = tiny.data_manifest(tmp_path_factory.mktemp("pairs"), "preference", rows[:32], rows[32:])
    return {"model": tiny.model_manifest(tiny_model), "data": data}


@pytest.fixture(scope="module")
def online(storage: Path, inputs: dict[str, Manifest]) -> Manifest:
    return tiny.run_stage("offline_rl", CONFIG, inputs, storage)


def test_dpo_starts_at_log_2_and_learns(online: Manifest) -> None:
    losses = tiny.curve(online)
    assert losses[0] == pytest.approx(0.693147, abs=1e-5)
    assert losses[-1] < losses[0]
    assert {f"metrics/eval/{name}" for name in ("loss", "accuracy", "margin")} <= set(online.metrics)
    assert online.info["loss_type"] == "dpo"
