"""Two processes give the loss curve of one: DDP and FSDP 2, on the CPU over gloo."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tiny_training as tiny
import torch
from four_batches import CONFIG

from compose_rl.stages.attempt import published
from compose_rl.store import open_store
from compose_rl.store.manifest import Manifest

pytestmark = pytest.mark.slow

# So small that processes need different numbers of microbatches, and the rest is filled up.
BUDGET = {"train_loader": {"token_budget": 60}}
CASES: dict[str, dict[str, Any]] = {
    "ddp": BUDGET,
    "fsdp2": BUDGET | {"fsdp_config": {"activation_checkpointing": False}},
    "kto-ddp": BUDGET | {"model": {"loss_type": "kto"}},
    "kto-fsdp2": BUDGET | {"model": {"loss_type": "kto"}, "fsdp_config": {}},
    "reward-ddp": BUDGET | {"model": {"head": "value_head"}},
    "reward-fsdp2": BUDGET | {"model": {"head": "value_head"}, "fsdp_config": {}},
    "reward-linear-fsdp2": BUDGET | {"fsdp_config": {}},
}
"""What is added to ``CONFIG`` in two processes."""


def stage_of(name: str) -> str:
    return "reward_model" if name.startswith("reward") else "offline_rl"


def held_out(result: Manifest) -> float:
    """The loss, or of a reward model the margin."""
    return result.metrics["margin" if result.stage == "reward_model" else "metrics/eval/loss"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Manifest]:
    rows = tiny.preference_rows(48)
    data = tiny.data_manifest(tmp_path_factory.mktemp("two-data"), "preference", rows[:32], rows[32:])
    return {"model": tiny.model_manifest(tiny_model), "data": data}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Manifest]) -> dict[str, Manifest]:
    """The result of each case, all trained by the same two processes."""
    storage = tmp_path_factory.mktemp("two-store")
    keys: dict[str, str] = {}
    jobs: list[str] = []
    for name, overrides in CASES.items():
        document = tiny.job_file(stage_of(name), CONFIG | overrides, inputs, storage, "a1")
        document = document.model_copy(update={"procs": 2})
        path = storage / f"{name}.json"
        path.write_text(document.model_dump_json())
        keys[name] = document.key
        jobs.append(str(path))
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(port),
    ]
    script = str(Path(__file__).with_name("two_processes.py"))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, script, *jobs], check=True, env=environment, timeout=300)
    store = open_store(str(storage))
    done = {name: published(store, stage_of(name), key) for name, key in keys.items()}
    return {name: result for name, result in done.items() if result is not None}


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_curve_of_one(
    name: str, results: dict[str, Manifest], inputs: dict[str, Manifest], tmp_path: Path
) -> None:
    alone = {"model": CASES[name].get("model", {})}
    one = tiny.run_stage(stage_of(name), CONFIG | alone, inputs, tmp_path)
    two = results[name]
    assert tiny.curve(two) == pytest.approx(tiny.curve(one), rel=1e-5, abs=1e-5)
    assert tiny.curve(two, "loss/train/accuracy") == pytest.approx(
        tiny.curve(one, "loss/train/accuracy"), abs=1e-6
    )
    assert held_out(two) == pytest.approx(held_out(one), abs=1e-5)
    expected, found = tiny.weights(one), tiny.weights(two)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-4)
