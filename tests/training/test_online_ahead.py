"""Answers that a server generates while the trainer trains: one iteration behind, and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import online_toy as toy
import tiny_training as tiny
import torch

from compose_rl.store.manifest import Manifest

pytestmark = pytest.mark.slow

CONFIG = toy.config(
    model={"loss_type": "grpo", "importance_sampling_cap": 2.0},
    variables={"engine": {"kind": "server"}, "max_staleness": 1, "num_batches_per_update": 2},
    global_train_batch_size=16,
    max_duration="4iter",
    save_interval="3ba",
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Manifest]:
    return toy.inputs(tmp_path_factory.mktemp("online-ahead-data"), tiny_model)


class KilledError(Exception):
    """The process ends here."""


def test_answers_are_one_iteration_behind_and_survive_a_kill(
    inputs: dict[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compose_rl.training.callbacks.finite_loss import FiniteLoss

    undisturbed = tiny.run_stage("online_rl", CONFIG, inputs, tmp_path / "undisturbed")
    assert tiny.curve(undisturbed, "rollout/staleness") == [0.0, 1.0, 1.0, 1.0]
    assert all(size > 0 for size in tiny.curve(undisturbed, "push/bytes"))
    assert all(gap < 0.5 for gap in tiny.curve(undisturbed, "rollout/engine_gap"))

    original, left = FiniteLoss.batch_end, [4]

    def ends(*args: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise KilledError
        original(*args)

    # After the state of batch 3, which is in the middle of an iteration whose successor is being generated.
    with monkeypatch.context() as patched:
        patched.setattr(FiniteLoss, "batch_end", ends)
        with pytest.raises(KilledError):
            tiny.run_stage("online_rl", CONFIG, inputs, tmp_path / "killed", attempt="a1")
    resumed = tiny.run_stage("online_rl", CONFIG, inputs, tmp_path / "killed", attempt="a2")
    assert tiny.curve(resumed, "rollout/staleness") == [0.0, 1.0, 1.0, 1.0]
    assert tiny.curve(resumed, "rollout/reward") == pytest.approx(tiny.curve(undisturbed, "rollout/reward"))
    expected, found = tiny.weights(undisturbed), tiny.weights(resumed)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5)
