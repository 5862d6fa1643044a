"""Two nodes: two trainers with caches of their own, which meet in the store alone.

They run as on a cluster, in the environment that the training operator gives their pods.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tiny_training as tiny
import torch

from compose_rl.errors import EXIT_TRANSIENT
from compose_rl.stages.attempt import fetched, published
from compose_rl.stages.spec import load
from compose_rl.store import join, open_store
from compose_rl.store.manifest import Manifest

pytestmark = [
    pytest.mark.s3,
    pytest.mark.slow,
    pytest.mark.skipif(os.getuid() != 0, reason="shared memory of its own can only be mounted by root"),
]

CRASH = """
import os
import time
from composer.core import Callback
from llmfoundry.registry import callbacks


class Crash(Callback):
    def batch_start(self, state, logger):
        time.sleep(float(os.environ.get("PAUSE", 0)))
        if state.timestamp.batch == int(os.environ.get("CRASH", -1)):
            raise RuntimeError("crash")


callbacks.register("crash", func=Crash)
"""
CONFIG: dict[str, Any] = {
    "callbacks": {"crash": {}},
    "max_duration": "8ba",
    "global_train_batch_size": 8,
    "device_train_microbatch_size": 8,
    "device_eval_batch_size": 8,
    "eval_interval": "8ba",
    "save_interval": "3ba",
    "optimizer": {"lr": 0.003},
    "scheduler": {"name": "constant_with_warmup", "t_warmup": "0ba"},
    "train_loader": {"token_budget": 60},
}
FORMS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "full": {"fsdp_config": {"state_dict_type": "full"}},
    "sharded": {"fsdp_config": {"state_dict_type": "sharded"}},
}
"""How training state is saved."""
CRASH_AT = 5
"""Batches done when an attempt crashes; its newest state is of 3."""


OWN_SHARED_MEMORY = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    'mount -t tmpfs tmpfs /dev/shm && exec "$@"',
    "sh",
]
"""As a pod has; without it the nodes would find each other's."""


class Nodes:
    """Two trainers, as two pods of a PyTorchJob run them."""

    def __init__(self, folder: Path, module: str, job: str) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = str(found.getsockname()[1])
        self.messages = [folder / f"termination{rank}" for rank in range(2)]
        self.logs = [folder / f"log{rank}" for rank in range(2)]
        self.processes = []
        for rank in range(2):
            self.messages[rank].touch()
            place = folder / f"node{rank}"
            place.mkdir()
            words = [*OWN_SHARED_MEMORY, sys.executable, "-m", "compose_rl.launch.trainer"]
            words += ["--module", module, "--job", job]
            own = {
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": port,
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "PET_NNODES": "2",
                "PET_NPROC_PER_NODE": "1",
                "OMP_NUM_THREADS": "1",
                "COMPOSE_RL_CACHE": str(place / "cache"),
                "COMPOSE_RL_TERMINATION_LOG": str(self.messages[rank]),
            }
            with self.logs[rank].open("w") as log:
                node = subprocess.Popen(words, env=os.environ | own, cwd=place, stdout=log, stderr=log)
            self.processes.append(node)

    def wait(self, seconds: float = 300) -> list[int]:
        try:
            return [process.wait(seconds) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    def output(self) -> str:
        return "\n".join(log.read_text()[-4000:] for log in self.logs)


def begin(
    storage: str, config: dict[str, Any], inputs: dict[str, Manifest], attempt: str, **changes: Any
) -> str:
    """The URI of a new attempt's job file."""
    job = tiny.job_file("offline_rl", config, inputs, storage, attempt).model_copy(update=changes)
    open_store(storage).write(f"{job.folder}/job.json", job.model_dump_json().encode())
    return join(storage, job.folder, "job.json")


def uploaded(manifest: Manifest, storage: str) -> Manifest:
    """The same result, with its outputs in S3."""
    store = open_store(storage)
    outputs = {}
    for name, output in manifest.outputs.items():
        store.upload(Path(output.uri), f"{manifest.stage}/{name}")
        outputs[name] = output.model_copy(update={"uri": join(storage, manifest.stage, name)})
    return manifest.model_copy(update={"outputs": outputs})


@pytest.fixture
def inputs(s3: str, tiny_model: Path, tmp_path: Path) -> dict[str, Manifest]:
    rows = tiny.preference_rows(48)
    data = tiny.data_manifest(tmp_path / "data", "preference", rows[:40], rows[40:])
    both = {"model": tiny.model_manifest(tiny_model), "data": data}
    return {name: uploaded(manifest, f"{s3}/inputs") for name, manifest in both.items()}


def curve(result: Manifest) -> list[float]:
    return tiny.losses((fetched(result, "curves") / "curves.jsonl").read_text())


def weights(result: Manifest) -> dict[str, Any]:
    return torch.load(fetched(result, "checkpoint") / "model.pt", weights_only=False)["state"]["model"]


def test_one_process_and_two_nodes_take_over_from_each_other(
    s3: str, own_cache: Path, inputs: dict[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crash.py").write_text(CRASH)
    config = CONFIG | {"code_paths": [str(tmp_path / "crash.py")]}
    undisturbed = tiny.run_stage("offline_rl", config, inputs, f"{s3}/undisturbed")

    def alone(case: str, attempt: str) -> None:
        tiny.run_stage("offline_rl", config | FORMS[case.split("-")[0]], inputs, f"{s3}/{case}", attempt)

    def together(case: str, attempt: str, crash: int = -1) -> tuple[str, int]:
        uri = begin(f"{s3}/{case}", config | FORMS[case.split("-")[0]], inputs, attempt, nodes=2)
        return uri, crash

    for form in FORMS:
        monkeypatch.setenv("CRASH", str(CRASH_AT))
        with pytest.raises(RuntimeError, match="crash"):
            alone(f"{form}-1-2", "a1")
        monkeypatch.delenv("CRASH")
    jobs = [together(f"{form}-1-2", "a2") for form in FORMS]
    jobs += [together(f"{form}-2-1", "a1", CRASH_AT) for form in FORMS]
    jobs += [together("sharded-2-2", "a1", CRASH_AT), together("sharded-2-2", "a2")]
    open_store(s3).write("jobs/a/job.json", json.dumps(jobs).encode())
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    nodes = Nodes(tmp_path, "two_nodes", f"{s3}/jobs/a/job.json")
    assert nodes.wait() == [0, 0], nodes.output()
    for form in FORMS:
        alone(f"{form}-2-1", "a2")

    cases = [f"{form}-{way}" for form in FORMS for way in ("1-2", "2-1")] + ["sharded-2-2"]
    expected = weights(undisturbed)
    for case in cases:
        spec = load("offline_rl")
        key = spec.key(spec.parse(config | FORMS[case.split("-")[0]], inputs), inputs)
        result = published(open_store(f"{s3}/{case}"), "offline_rl", key)
        assert result is not None and result.attempt == "a2", case
        assert curve(result) == pytest.approx(curve(undisturbed), rel=1e-5, abs=1e-5), case
        for name, value in weights(result).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4, msg=f"{case}: {name}")


def steps(node: Path) -> int:
    """Batches done by the process of a node."""
    return sum(path.read_text().count("loss/train/total") for path in node.rglob("curves.jsonl"))


def trained_a_while(nodes: Nodes, folder: Path, number: int) -> None:
    end = time.monotonic() + 480
    while steps(folder / "node0") < number:
        assert time.monotonic() < end and nodes.processes[0].poll() is None, nodes.output()
        time.sleep(0.05)


def test_a_node_told_to_stop_takes_its_state_along_and_one_that_is_killed_the_others(
    s3: str, own_cache: Path, inputs: dict[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes after goes on from where the last state was saved, as if nothing had been."""
    (tmp_path / "crash.py").write_text(CRASH)
    config = CONFIG | {"code_paths": [str(tmp_path / "crash.py")], "max_duration": "30ba"}
    sharded = config | FORMS["sharded"] | {"save_interval": "1000ba"}
    undisturbed = tiny.run_stage("offline_rl", config, inputs, f"{s3}/undisturbed")
    monkeypatch.setenv("PAUSE", "0.3")
    places = [tmp_path / name for name in ("stopped", "killed")]
    for place in places:
        place.mkdir()

    first = begin(s3, sharded, inputs, "a1", nodes=2)
    nodes = Nodes(places[0], "compose_rl.stages.offline_rl.run", first)
    trained_a_while(nodes, places[0], 2)
    nodes.processes[1].terminate()
    assert nodes.wait() == [EXIT_TRANSIENT, EXIT_TRANSIENT], nodes.output()
    said = [message.read_text() for message in nodes.messages]
    for rank, message in enumerate(said):
        reason = rf"told to stop \(SIGTERM\); state saved after batch (\d+) \(rank {rank}, exit code 75\)"
        assert re.fullmatch(reason, message), said

    second = begin(s3, sharded, inputs, "a2", nodes=2)
    nodes = Nodes(places[1], "compose_rl.stages.offline_rl.run", second)
    saved = int(re.findall(r"batch (\d+)", said[0])[0])
    trained_a_while(nodes, places[1], saved + 2)
    nodes.processes[1].kill()
    assert nodes.wait() == [EXIT_TRANSIENT, -signal.SIGKILL], nodes.output()
    message = nodes.messages[0].read_text()
    assert re.fullmatch(r"lost contact with another process \(.*\) \(rank 0, exit code 75\)", message)

    monkeypatch.delenv("PAUSE")
    result = tiny.run_stage("offline_rl", sharded, inputs, s3, "a3")
    assert result.attempt == "a3"
    assert curve(result) == pytest.approx(curve(undisturbed), rel=1e-5, abs=1e-5)
