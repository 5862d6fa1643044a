"""MLflow, W&B and TensorBoard get every figure of an iteration and its answers, lost ones too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

import online_toy as toy
import tiny_training as tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from compose_rl.training.online.figures import SAMPLE_COLUMNS


def test_loggers_get_figures_and_answers(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = tmp_path / "wandb"
    wandb.mkdir()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    rewards = {name: {"reward_type": f"online_toy.{name}"} for name in ("right_tokens", "fails_for_some")}
    config = toy.config(
        max_duration="2iter",
        variables={"rewards": rewards, "max_lost_fraction": 1.0, "num_logged_samples": 32},
        loggers={
            "mlflow": {"tracking_uri": f"file://{tmp_path}/mlruns", "experiment_name": "toy"},
            "wandb": {"project": "toy"},
            "tensorboard": {"log_dir": str(tmp_path / "tensorboard")},
        },
    )
    result = tiny.run_stage(
        "online_rl", config, toy.inputs(tmp_path / "data", tiny_model), tmp_path / "store"
    )
    assert 0 < tiny.curve(result, "rollout/lost")[0] < 1

    (run,) = (path.parent for path in (tmp_path / "mlruns").glob("*/*/metrics"))
    for name in ("rollout/reward", "rollout/rewards/right_tokens", "loss/train/total", "seconds/train"):
        found = [float(line.split()[1]) for line in (run / "metrics" / name).read_text().splitlines()]
        assert found == pytest.approx(tiny.curve(result, name))
    table = json.loads((run / "artifacts" / "samples" / "iteration1.json").read_text())
    assert table["columns"] == SAMPLE_COLUMNS
    assert len(table["data"]) == 32

    (shown,) = wandb.glob("offline-run-*/files/media/table/samples/iteration1_*.table.json")
    assert json.loads(shown.read_text())["data"] == table["data"]

    (folder,) = (tmp_path / "tensorboard").iterdir()
    board = EventAccumulator(str(folder)).Reload()
    rewards = [event.value for event in board.Scalars("rollout/rewards/right_tokens")]
    assert rewards == pytest.approx(tiny.curve(result, "rollout/rewards/right_tokens"))
    texts = [event.tensor_proto.string_val[0].decode() for event in board.Tensors("samples/text_summary")]
    assert [text.count("\n") for text in texts] == [1 + 32, 1 + 32]
