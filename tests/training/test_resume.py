"""A training stage that is killed goes on where it was, and ends with the bits of an undisturbed run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tiny_training as tiny
import torch

from compose_rl.store import open_store
from compose_rl.store.manifest import Manifest
from compose_rl.training.checkpoints import SEAL_SUFFIX, content_digest, newest_whole, seal

# Dropout makes the weights depend on the random state, shuffling on the position in the data.
CONFIG: dict[str, Any] = {
    "model": {
        "peft_config": {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": 4,
            "lora_dropout": 0.3,
            "target_modules": "all-linear",
        }
    },
    "max_duration": "40ba",
    "global_train_batch_size": 4,
    "device_train_microbatch_size": 4,
    "device_eval_batch_size": 4,
    "eval_interval": "3ba",
    "save_interval": "2ba",
    "optimizer": {"lr": 0.01},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Manifest]:
    rows = tiny.instruction_rows(44)
    data = tiny.data_manifest(tmp_path_factory.mktemp("resume-data"), "instruction", rows[:36], rows[36:])
    return {"model": tiny.model_manifest(tiny_model), "data": data}


def kill_in_training(storage: Path, inputs: dict[str, Manifest]) -> Path:
    """Run the stage in a process, kill it some steps after a seal; the folder of its training state."""
    document = tiny.job_file("sft", CONFIG, inputs, storage, "a1")
    attempt = storage / document.folder
    attempt.mkdir(parents=True)
    (attempt / "job.json").write_text(document.model_dump_json())
    command = [sys.executable, "-m", "compose_rl.stages.sft.run", "--job", str(attempt / "job.json")]
    checkpoints = attempt / "checkpoints"
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        while not (seals := list(checkpoints.glob(f"*{SEAL_SUFFIX}"))) or "ba2." in seals[0].name:
            assert process.poll() is None, "the stage ended before it could be killed"
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    return checkpoints


@pytest.mark.slow
def test_kill_and_resume_end_with_the_same_bits(tmp_path: Path, inputs: dict[str, Manifest]) -> None:
    undisturbed = tiny.run_stage("sft", CONFIG, inputs, tmp_path / "one")
    checkpoints = kill_in_training(tmp_path / "two", inputs)
    assert newest_whole([str(checkpoints)], tmp_path, print) is not None
    resumed = tiny.run_stage("sft", CONFIG, inputs, tmp_path / "two", attempt="a2")

    assert resumed.key == undisturbed.key
    expected, found = tiny.weights(undisturbed), tiny.weights(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert tiny.curve(resumed) == tiny.curve(undisturbed)
    assert len(tiny.curve(resumed)) == 40


def sealed(folder: Path, batch: int, content: bytes) -> Path:
    path = folder / f"ba{batch}" / "rank0.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    relative = str(path.relative_to(folder))
    seal(open_store(str(folder)), batch=batch, load=relative, files={relative: content_digest(path)})
    return path


def test_only_whole_states_are_resumed_from(tmp_path: Path) -> None:
    older, newer = tmp_path / "a1", tmp_path / "a2"
    kept = sealed(older, 9, b"older attempt")
    first = sealed(newer, 2, b"two steps")
    second = sealed(newer, 10, b"ten steps")
    (newer / "ba12").mkdir()
    (newer / "ba12" / "rank0.pt").write_bytes(b"written when it was killed")
    folders = [str(newer), str(older)]
    said: list[str] = []

    # The newest attempt counts before the number of steps; ten is more than two, whatever its letters say.
    assert newest_whole(folders, tmp_path, said.append) == second
    second.write_bytes(b"changed!!")
    assert newest_whole(folders, tmp_path, said.append) == first
    assert "ba10/rank0.pt is not what was written" in said[0]
    first.unlink()
    assert newest_whole(folders, tmp_path, said.append) == kept
    assert newest_whole([], tmp_path, said.append) is None
