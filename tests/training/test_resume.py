"""A training stage that is killed, or has to leave, goes on and ends with the bits of an undisturbed run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tiny_training as tiny
import torch

from compose_rl.errors import EXIT_TRANSIENT
from compose_rl.stages.attempt import FAILURE_NAME
from compose_rl.store import open_store
from compose_rl.store.leases import Leases
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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Manifest]) -> Manifest:
    return tiny.run_stage("sft", CONFIG, inputs, tmp_path_factory.mktemp("undisturbed"))


class Attempt:
    """The stage in a process of its own, as a launcher starts it."""

    def __init__(
        self, storage: Path, config: dict[str, Any], inputs: dict[str, Manifest], **changes: Any
    ) -> None:
        self.job = tiny.job_file("sft", config, inputs, storage, "a1").model_copy(update=changes)
        self.folder = storage / self.job.folder
        self.folder.mkdir(parents=True)
        path = self.folder / "job.json"
        path.write_text(self.job.model_dump_json())
        command = [sys.executable, "-m", "compose_rl.stages.sft.run", "--job", str(path)]
        self.process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})

    def wait_for(self, condition: Callable[[], object]) -> None:
        try:
            while not condition():
                assert self.process.poll() is None, "the stage ended too early"
                time.sleep(0.01)
        except BaseException:
            self.process.kill()
            raise

    def steps(self) -> int:
        """Batches done."""
        curves = self.folder / "curves" / "curves.jsonl"
        return curves.read_text().count("loss/train/total") if curves.exists() else 0

    def seals(self) -> list[str]:
        return [path.name for path in (self.folder / "checkpoints").glob(f"*{SEAL_SUFFIX}")]

    def failure(self) -> dict[str, Any]:
        return json.loads((self.folder / FAILURE_NAME).read_text())


def same_bits(resumed: Manifest, undisturbed: Manifest) -> None:
    assert resumed.key == undisturbed.key
    expected, found = tiny.weights(undisturbed), tiny.weights(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert tiny.curve(resumed) == tiny.curve(undisturbed)
    assert len(tiny.curve(resumed)) == 40


@pytest.mark.slow
def test_kill_and_resume_end_with_the_same_bits(
    tmp_path: Path, inputs: dict[str, Manifest], undisturbed: Manifest
) -> None:
    attempt = Attempt(tmp_path, CONFIG, inputs)
    attempt.wait_for(lambda: attempt.seals() and attempt.seals() != [f"ba2{SEAL_SUFFIX}"])
    attempt.process.kill()
    attempt.process.wait()
    assert newest_whole([str(attempt.folder / "checkpoints")], tmp_path, print) is not None
    same_bits(tiny.run_stage("sft", CONFIG, inputs, tmp_path, attempt="a2"), undisturbed)


@pytest.mark.slow
def test_told_to_stop_it_saves_its_state_and_resumes_with_the_same_bits(
    tmp_path: Path, inputs: dict[str, Manifest], undisturbed: Manifest
) -> None:
    rarely = CONFIG | {"save_interval": "1000ba"}
    attempt = Attempt(tmp_path, rarely, inputs)
    attempt.wait_for(lambda: attempt.steps() >= 3)
    attempt.process.terminate()
    assert attempt.process.wait(60) == EXIT_TRANSIENT
    (seal_name,) = attempt.seals()
    batch = seal_name.removeprefix("ba").removesuffix(SEAL_SUFFIX)
    assert attempt.failure() == {
        "exit_code": EXIT_TRANSIENT,
        "message": f"told to stop (SIGTERM); state saved after batch {batch}",
    }
    assert 3 <= int(batch) < 40
    assert sorted(path.name for path in attempt.folder.iterdir()) == ["checkpoints", FAILURE_NAME, "job.json"]
    same_bits(tiny.run_stage("sft", rarely, inputs, tmp_path, attempt="a2"), undisturbed)


@pytest.mark.slow
def test_it_saves_its_state_and_leaves_when_no_launcher_renews_its_lease(
    tmp_path: Path, inputs: dict[str, Manifest]
) -> None:
    attempt = Attempt(
        tmp_path, CONFIG | {"max_duration": "2000ba", "save_interval": "9000ba"}, inputs, lease_minutes=0.05
    )
    leases = Leases(open_store(str(tmp_path)), attempt.job.key)
    attempt.wait_for(lambda: leases.renew("launcher") or attempt.steps() >= 3)
    assert attempt.process.wait(120) == EXIT_TRANSIENT
    said = (
        r"no launcher holds this job any more \(no lease .* for 0.05 minutes\); state saved after batch \d+"
    )
    assert re.fullmatch(said, attempt.failure()["message"])
    assert len(attempt.seals()) == 1


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
