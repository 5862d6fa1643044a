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
from compose_rl.training.checkpoints import SEAL_SUFFIX

pytestmark = pytest.mark.slow

# So small that processes need different numbers of microbatches, and the rest is filled up.
BUDGET = {"train_loader": {"token_budget": 60}}
CASES: dict[str, dict[str, Any]] = {
    "grpo": {"variables": {"kl_controller": {"init_kl_coef": 0.1}, "epoch_per_iteration": 2}},
    "ppo": {
        "model": {"name": "hf_actor_critic_lm", "loss_type": "ppo", "compute_kl_loss": False},
        "variables": {"kl_controller": {"init_kl_coef": 0.1}, "dynamic_sampling": {"max_rounds": 2}},
    },
    "resumed": {
        "variables": {
            "kl_controller": {"init_kl_coef": 0.1},
            "epoch_per_iteration": 2,
            "num_batches_per_update": 2,
        },
        "global_train_batch_size": 16,
        "max_duration": "3iter",
        "save_interval": "3ba",
    },
    "sharded": {"variables": {"epoch_per_iteration": 2}, "max_duration": "3iter", "optimizer": {"lr": 0.001}},
}
IN_TWO: dict[str, dict[str, Any]] = {
    "sharded": {"fsdp_config": {}, "variables": {"engine": {"kind": "server"}}},
    "lost": {
        "variables": {
            "rewards": {"half": {"reward_type": "online_toy.fails_in_the_second_process"}},
            "max_lost_fraction": 0.6,
        },
        "max_duration": "1iter",
    },
}
"""What two processes are given beside it."""


class KilledError(Exception):
    """The process ends here."""


def one_ends_in_the_middle(inputs: dict[str, Manifest], storage: Path) -> None:
    """Train in this process until the fifth batch: the state of the third is of an iteration's middle."""
    from compose_rl.training.callbacks.finite_loss import FiniteLoss

    original, left = FiniteLoss.batch_end, [5]

    def ends(*args: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise KilledError
        original(*args)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(FiniteLoss, "batch_end", ends)
        with pytest.raises(KilledError):
            tiny.run_stage("online_rl", toy.config(**CASES["resumed"]), inputs, storage, attempt="a1")
    assert [path.name for path in storage.rglob(f"*{SEAL_SUFFIX}")] == [f"ba3{SEAL_SUFFIX}"]


def in_two(name: str) -> dict[str, Any]:
    """The document of a case for two processes; one that is resumed has the key that one process gave it."""
    one, two = CASES.get(name, {}), IN_TWO.get(name, {})
    variables = one.get("variables", {}) | two.get("variables", {})
    budget = {} if name == "resumed" else BUDGET
    return toy.config(**(one | two | budget | {"variables": variables}))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Manifest]:
    return toy.inputs(tmp_path_factory.mktemp("online-two-data"), tiny_model)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Manifest]) -> dict[str, Manifest]:
    """The result of each case, all trained by the same two processes."""
    storage = tmp_path_factory.mktemp("online-two-store")
    one_ends_in_the_middle(inputs, storage)
    documents = {
        name: tiny.job_file("online_rl", in_two(name), inputs, storage, "a2") for name in CASES | IN_TWO
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


def test_sharded_weights_are_pushed_whole(two: dict[str, Manifest], tiny_model: Path) -> None:
    whole = sum(tensor.nbytes for tensor in tiny.start(tiny_model).values())
    assert tiny.curve(two["sharded"], "push/bytes") == [whole] * 3
    # In float32 the server, started from the first weights, says of its answers what the trainer says.
    assert all(gap < 1e-4 for gap in tiny.curve(two["sharded"], "rollout/engine_gap"))


def test_lost_answers_are_counted_over_all_processes(two: dict[str, Manifest]) -> None:
    # All of the second process's are, which alone would be too many.
    assert tiny.curve(two["lost"], "rollout/lost") == [0.5]


def test_two_go_on_in_the_middle_of_an_iteration_of_one(two: dict[str, Manifest]) -> None:
    # Else the comparison above would be of a run from the start.
    (begun,) = Path(two["resumed"].uri).parent.glob("a1/curves/curves.jsonl")
    ended = Path(two["resumed"].output("curves").uri) / "curves.jsonl"
    assert ended.read_text().splitlines()[:3] == begun.read_text().splitlines()[:3]
