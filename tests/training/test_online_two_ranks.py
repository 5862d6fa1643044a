"""Two processes of online RL take the steps of one: the same prompts, answers and updates."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import online_toy as toy
import tiny_training as tiny
import torch

from compose_rl.stages.attempt import published
from compose_rl.store import open_store
from compose_rl.store.manifest import Manifest

pytestmark = pytest.mark.slow

# So small that processes need different numbers of microbatches, and the rest is filled up.
BUDGET = {"train_loader": {"token_budget": 60}}
CASES: dict[str, dict[str, Any]] = {
    "grpo": {"variables": {"kl_controller": {"init_kl_coef": 0.1}, "epoch_per_iteration": 2}},
    "ppo": {
        "model": {"name": "hf_actor_critic_lm", "loss_type": "ppo", "compute_kl_loss": False},
        "variables": {"kl_controller": {"init_kl_coef": 0.1}, "dynamic_sampling": {"max_rounds": 2}},
    },
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Manifest]:
    return toy.inputs(tmp_path_factory.mktemp("online-two-data"), tiny_model)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Manifest]) -> dict[str, Manifest]:
    """The result of each case, all trained by the same two processes."""
    storage = tmp_path_factory.mktemp("online-two-store")
    documents = {
        name: tiny.job_file("online_rl", toy.config(**case, **BUDGET), inputs, storage, "a1")
        for name, case in CASES.items()
    }
    jobs: list[str] = []
    for name, document in documents.items():
        path = storage / f"{name}.json"
        path.write_text(document.model_copy(update={"procs": 2}).model_dump_json())
        jobs.append(str(path))
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    paths = os.pathsep.join([str(Path(toy.__file__).parent), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [*torchrun, str(Path(__file__).with_name("two_processes.py")), *jobs],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        timeout=300,
    )
    store = open_store(str(storage))
    done = {name: published(store, "online_rl", document.key) for name, document in documents.items()}
    return {name: result for name, result in done.items() if result is not None}


@pytest.mark.parametrize("name", CASES)
def test_two_processes_take_the_steps_of_one(
    name: str, two: dict[str, Manifest], inputs: dict[str, Manifest], tmp_path: Path
) -> None:
    one = tiny.run_stage("online_rl", toy.config(**CASES[name]), inputs, tmp_path)
    for metric in ("rollout/reward", "rollout/length", "rollout/kl", "loss/train/total"):
        assert tiny.curve(two[name], metric) == pytest.approx(tiny.curve(one, metric), rel=1e-4, abs=1e-5)
    expected, found = tiny.weights(one), tiny.weights(two[name])
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-4)
