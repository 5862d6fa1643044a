"""Online RL that ends at any moment of its loop goes on and ends with the bits of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import online_toy as toy
import tiny_training as tiny
import torch

from compose_rl.errors import EXIT_TRANSIENT
from compose_rl.store.manifest import Manifest
from compose_rl.training.checkpoints import SEAL_SUFFIX

# Dropout makes the weights depend on the random state; two passes of two minibatches on the place in them;
# a controller that moves on what iterations found.
CONFIG = toy.config(
    model={"name": "hf_actor_critic_lm", "loss_type": "ppo", "critic_dropout": 0.3},
    variables={
        "num_unique_prompts_per_iter": 4,
        "num_batches_per_update": 2,
        "epoch_per_iteration": 2,
        "kl_controller": {"kl_ctl_type": "adaptive", "init_kl_coef": 0.1, "horizon": 100.0},
    },
    global_train_batch_size=8,
    device_train_microbatch_size=2,
    max_duration="4iter",
    save_interval="3ba",
)
BATCHES = 16


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Manifest]:
    return toy.inputs(tmp_path_factory.mktemp("online-resume-data"), tiny_model)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Manifest]) -> Manifest:
    return tiny.run_stage("online_rl", CONFIG, inputs, tmp_path_factory.mktemp("undisturbed"))


def lines(result: Manifest) -> list[str]:
    return (Path(result.output("samples").uri) / "samples.jsonl").read_text().splitlines()


def same_bits(resumed: Manifest, undisturbed: Manifest) -> None:
    assert resumed.key == undisturbed.key
    expected, found = tiny.weights(undisturbed), tiny.weights(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    for metric in ("loss/train/total", "rollout/reward", "rollout/kl", "rollout/kl_coef"):
        assert tiny.curve(resumed, metric) == tiny.curve(undisturbed, metric)
    assert len(tiny.curve(resumed)) == BATCHES
    assert lines(resumed) == lines(undisturbed)


class KilledError(Exception):
    """The process ends here."""


def _generating() -> tuple[Any, str]:
    from compose_rl.rollouts.hf import HFGenerator

    return HFGenerator, "generate"


def _scoring() -> tuple[Any, str]:
    from compose_rl.rewards.manager import RewardManager

    return RewardManager, "judge"


def _training() -> tuple[Any, str]:
    from compose_rl.training.callbacks.finite_loss import FiniteLoss

    return FiniteLoss, "batch_end"


def _saving() -> tuple[Any, str]:
    from compose_rl.training.callbacks.checkpoints import StageCheckpoints

    return StageCheckpoints, "_digests"


def run_until(
    moment: tuple[Any, str],
    calls: int,
    config: dict[str, Any],
    inputs: dict[str, Manifest],
    storage: Path,
) -> None:
    """Run the stage until a method is called for the ``calls``-th time."""
    owner, name = moment
    original, left = getattr(owner, name), [calls]

    def ends(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise KilledError
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(owner, name, ends)
        with pytest.raises(KilledError):
            tiny.run_stage("online_rl", config, inputs, storage, attempt="a1")


@pytest.mark.parametrize(
    ("moment", "calls"),
    [(_generating, 3), (_scoring, 3), (_training, 12), (_saving, 3)],
    ids=["generating", "scoring", "training", "saving"],
)
def test_a_run_that_ends_at_any_moment_is_continued_with_the_same_bits(
    moment: Callable[[], tuple[Any, str]],
    calls: int,
    tmp_path: Path,
    inputs: dict[str, Manifest],
    undisturbed: Manifest,
) -> None:
    run_until(moment(), calls, CONFIG, inputs, tmp_path)
    same_bits(tiny.run_stage("online_rl", CONFIG, inputs, tmp_path, attempt="a2"), undisturbed)


@pytest.mark.parametrize("interval", ["2ep", "1iter"])
def test_states_of_iterations_ends_are_resumed_from(
    interval: str, tmp_path: Path, inputs: dict[str, Manifest], undisturbed: Manifest
) -> None:
    # Composer saves at an epoch's end before it counts the iteration that ends with it.
    every = CONFIG | {"save_interval": interval}
    run_until(_scoring(), 3, every, inputs, tmp_path)
    seals = [path.name for path in tmp_path.rglob(f"*{SEAL_SUFFIX}")]
    assert seals == [f"ba8{SEAL_SUFFIX}"]
    same_bits(tiny.run_stage("online_rl", every, inputs, tmp_path, attempt="a2"), undisturbed)


def test_prompts_that_dynamic_sampling_asked_beyond_its_groups_are_not_asked_again(
    tmp_path: Path, inputs: dict[str, Manifest]
) -> None:
    config = toy.config(
        variables={
            "num_unique_prompts_per_iter": 4,
            "dynamic_sampling": {"max_rounds": 3},
            "rewards": {"right": {"reward_type": "online_toy.first_right"}},
        },
        global_train_batch_size=16,
        max_duration="3iter",
        save_interval="1iter",
    )
    whole = tiny.run_stage("online_rl", config, inputs, tmp_path / "undisturbed")
    # Up to three rounds an iteration: the fourth is of a later one, which begins again from its state.
    run_until(_scoring(), 4, config, inputs, tmp_path / "killed")
    resumed = tiny.run_stage("online_rl", config, inputs, tmp_path / "killed", attempt="a2")
    expected, found = tiny.weights(whole), tiny.weights(resumed)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert lines(resumed) == lines(whole)


class Started:
    """The stage in a process of its own, as a launcher starts it."""

    def __init__(
        self, config: dict[str, Any], inputs: dict[str, Manifest], storage: Path, attempt: str
    ) -> None:
        job = tiny.job_file("online_rl", config, inputs, storage, attempt)
        self.folder = storage / job.folder
        self.folder.mkdir(parents=True)
        path = self.folder / "job.json"
        path.write_text(job.model_dump_json())
        command = [sys.executable, "-m", "compose_rl.stages.online_rl.run", "--job", str(path)]
        paths = os.pathsep.join([str(Path(toy.__file__).parent), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        self.process = subprocess.Popen(command, env=environment)

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()

    def wait_for_steps(self, count: int) -> None:
        """Wait until ``count`` batches are done, those of attempts before it counted."""
        curves = self.folder / "curves" / "curves.jsonl"
        while not curves.exists() or curves.read_text().count("loss/train/total") < count:
            assert self.process.poll() is None, "the stage ended too early"
            time.sleep(0.005)


@pytest.mark.slow
def test_killed_at_two_random_moments_it_ends_with_the_same_bits(
    tmp_path: Path, inputs: dict[str, Manifest], undisturbed: Manifest
) -> None:
    draw = random.SystemRandom()
    for attempt, steps in (("a1", draw.randint(1, 5)), ("a2", draw.randint(6, 10))):
        pause = draw.random() / 10
        print(f"{attempt}: killed {pause:.3f} s after batch {steps}")
        with Started(CONFIG, inputs, tmp_path, attempt) as stage:
            stage.wait_for_steps(steps)
            time.sleep(pause)
            stage.process.kill()
            assert stage.process.wait() == -signal.SIGKILL
    same_bits(tiny.run_stage("online_rl", CONFIG, inputs, tmp_path, attempt="a3"), undisturbed)


@pytest.mark.slow
def test_told_to_stop_it_saves_its_state_and_goes_on(
    tmp_path: Path, inputs: dict[str, Manifest], undisturbed: Manifest
) -> None:
    rarely = CONFIG | {"save_interval": "1000ba"}
    with Started(rarely, inputs, tmp_path, "a1") as stage:
        stage.wait_for_steps(2)
        stage.process.send_signal(signal.SIGTERM)
        assert stage.process.wait(60) == EXIT_TRANSIENT
    message = json.loads((stage.folder / "failure.json").read_text())["message"]
    assert message.startswith("told to stop (SIGTERM); state saved after batch ")
    same_bits(tiny.run_stage("online_rl", rarely, inputs, tmp_path, attempt="a2"), undisturbed)
