"""A PyTorchJob that really trains: two pods give the curve of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import train_pods
from four_batches import CONFIG
from launching import Launchers
from space import Space

from compose_rl.store import open_store
from compose_rl.store.manifest import Manifest

HERE = Path(__file__).parent


def losses(storage: str) -> list[float]:
    """The training loss of each batch."""
    store = open_store(storage)
    (path,) = [entry.path for entry in store.list("offline_rl") if entry.path.endswith("/manifest.json")]
    manifest = Manifest.from_json(store.read(path), path)
    text = open_store(manifest.output("curves").uri).read("curves.jsonl").decode()
    metrics = [json.loads(line)["metrics"] for line in text.splitlines()]
    return [each["loss/train/total"] for each in metrics if "loss/train/total" in each]


@pytest.mark.node
@pytest.mark.scenario("a PyTorchJob of two pods that trains")
@pytest.mark.timeout(500)
def test_two_pods_give_the_curve_of_one_process(
    node_launchers: Launchers, space: Space, trainers: dict[str, Any], tmp_path: Path
) -> None:
    python = train_pods.environment_folder() / "bin/python"
    script = [str(python), str(HERE / "tiny_inputs.py"), str(tmp_path / "tiny"), space.storage]
    made = subprocess.run(script, capture_output=True, text=True, check=True, timeout=120)
    model, data = made.stdout.split()
    command = [
        *[sys.executable, "-m", "compose_rl.cli", "stage", "offline_rl"],
        *["--input", f"model={model}", "--input", f"data={data}", "--config", json.dumps(CONFIG)],
    ]
    resources = {**trainers, "nodes": 2, "memory": "3Gi"}
    pods = node_launchers.start(
        [
            *command,
            *["--storage", f"{space.storage}/pods", "--backend", "pytorchjob"],
            *["--resources", json.dumps(resources)],
        ],
        {},
    )
    assert pods.wait(400) == 0, pods.output
    here = {**os.environ, "COMPOSE_RL_ENV_TRAIN": str(python.parent.parent), "OMP_NUM_THREADS": "1"}
    alone = [*command, "--storage", f"{space.storage}/process", "--backend", "process"]
    subprocess.run(alone, env=here, check=True, timeout=200)
    expected, found = losses(f"{space.storage}/process"), losses(f"{space.storage}/pods")
    assert len(expected) == 4
    assert found == pytest.approx(expected, abs=1e-5)
    assert (
        "loss/train/total" in pods.output or "batch" in pods.output
    )  # rank 0's progress is in the step's log
