"""What a trainer pod runs: from the operator's environment to the stage's processes, and back to one line."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from compose_rl.errors import EXIT_TRANSIENT, EXIT_USER, UserError
from compose_rl.launch.attempts import begin, job_uri
from compose_rl.launch.node import Node, command, environment, this_node
from compose_rl.stages.attempt import FAILURE_NAME, Failure, JobFile, published
from compose_rl.stages.spec import StageSpec
from compose_rl.store import open_store, split

# What the training operator 1.9 sets for the second pod of two, two processes each.
PYTORCHJOB = {
    "MASTER_ADDR": "job-master-0",
    "MASTER_PORT": "23456",
    "RANK": "1",
    "WORLD_SIZE": "4",
    "PET_MASTER_ADDR": "job-master-0",
    "PET_MASTER_PORT": "23456",
    "PET_NNODES": "2",
    "PET_NODE_RANK": "1",
    "PET_NPROC_PER_NODE": "2",
    "PYTHONUNBUFFERED": "0",
}
# The trainer 2.x knows these alone.
TRAINJOB = {name: value for name, value in PYTORCHJOB.items() if name.startswith("PET_")}
SECOND = Node(nodes=2, procs="2", node_rank=1, master="job-master-0", port=23456)


@pytest.mark.parametrize("environ", [PYTORCHJOB, TRAINJOB])
def test_the_place_comes_from_the_operators_environment(environ: dict[str, str]) -> None:
    assert this_node(None, None, environ) == SECOND
    assert this_node(2, "1", environ) == Node(
        nodes=2, procs="1", node_rank=1, master="job-master-0", port=23456
    )
    assert this_node(None, None, environ | {"PET_NPROC_PER_NODE": "auto"}).procs == "auto"


def test_one_node_needs_no_environment() -> None:
    assert this_node(None, None, {}) == Node()
    assert this_node(1, "1", PYTORCHJOB) == Node()


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "nodes=2, but MASTER_ADDR, MASTER_PORT and RANK .* are not all set"),
        (PYTORCHJOB | {"PET_NODE_RANK": "2"}, "node rank 2, but there are 2 nodes"),
        (PYTORCHJOB | {"PET_MASTER_PORT": "http"}, "MASTER_PORT='http' is not a whole number"),
    ],
)
def test_what_does_not_fit_is_refused(environ: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        this_node(2, "1", environ)


def test_one_process_is_plain_and_others_go_through_torchrun() -> None:
    job = "s3://b/sft/key/attempt/job.json"
    assert command(Node(), "m", job) == [sys.executable, "-m", "m", "--job", job]
    agent = [sys.executable, "-m", "compose_rl.training.agent"]
    assert command(Node(procs="2"), "m", job) == [
        *agent, "--standalone", "--nproc-per-node=2", "-m", "m", "--job", job,
    ]  # fmt: skip
    assert command(SECOND, "m", job) == [
        *agent, "--nnodes=2", "--node-rank=1", "--master-addr=job-master-0", "--master-port=23456",
        "--rdzv-id=attempt", "--rdzv-conf=timeout=1800", "--nproc-per-node=2", "-m", "m", "--job", job,
    ]  # fmt: skip


def test_processes_do_not_see_what_the_operator_says_of_nodes() -> None:
    found = environment(PYTORCHJOB | {"HF_TOKEN": "x"})
    assert not set(PYTORCHJOB) & set(found) - {"PYTHONUNBUFFERED"}
    assert (found["HF_TOKEN"], found["OMP_WAIT_POLICY"], found["PYTHONUNBUFFERED"]) == ("x", "PASSIVE", "0")


def started(toy: StageSpec, tmp_path: Path, config: dict[str, Any]) -> JobFile:
    key = toy.key(toy.parse(config, {}), {})
    job = JobFile(stage="toy", key=key, storage=str(tmp_path / "store"), config=config, inputs={}, nodes=2)
    return begin(open_store(job.storage), job)


def trainer(
    tmp_path: Path, job: JobFile, rank: int, port: int, *words: str, **environ: str
) -> subprocess.Popen[str]:
    message = tmp_path / f"termination{rank}"
    message.touch()
    own = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    return subprocess.Popen(
        [
            *[sys.executable, "-m", "compose_rl.launch.trainer"],
            *["--module", "toy_stage", "--job", job_uri(job), *words],
        ],
        env=os.environ | own | environ | {"COMPOSE_RL_TERMINATION_LOG": str(message)},
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def finished(tmp_path: Path, nodes: list[subprocess.Popen[str]]) -> tuple[list[int], list[str], list[str]]:
    """Exit codes, termination messages, output."""
    try:
        output = [node.communicate(timeout=90)[1] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    messages = [(tmp_path / f"termination{rank}").read_text() for rank in range(len(nodes))]
    return [node.returncode for node in nodes], messages, output


def test_two_nodes_make_one_result(toy: StageSpec, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    job, port = started(toy, tmp_path, {"runs": str(runs)}), free_port()
    nodes = [trainer(tmp_path, job, rank, port, "--nodes", "2", "--procs", "1") for rank in (0, 1)]
    codes, messages, output = finished(tmp_path, nodes)
    assert (codes, messages) == ([0, 0], ["", ""]), output
    assert sorted(line.split()[1] for line in runs.read_text().splitlines()) == ["0", "1"]
    assert published(open_store(job.storage), "toy", job.key) is not None


def test_a_killed_process_is_named_with_its_rank(toy: StageSpec, tmp_path: Path) -> None:
    """Rank 1 of two on this node is killed; rank 0 would go on for minutes."""
    job = started(toy, tmp_path, {"fail": "kill", "fail_rank": 1, "pause": 300})
    codes, messages, _ = finished(tmp_path, [trainer(tmp_path, job, 0, 0, "--nodes", "1", "--procs", "2")])
    assert codes == [128 + signal.SIGKILL]
    assert messages == [
        "a process ended (rank 1, SIGKILL); out of memory? lower the batch or the token budget"
    ]
    failure = Failure.model_validate_json(split(job_uri(job))[0].read(FAILURE_NAME))
    assert (failure.exit_code, failure.message) == (137, messages[0])


def test_the_stages_own_reason_and_code_come_out(toy: StageSpec, tmp_path: Path) -> None:
    job = started(toy, tmp_path, {"fail": "user"})
    codes, messages, output = finished(tmp_path, [trainer(tmp_path, job, 0, 0, "--nodes", "1")])
    assert codes == [EXIT_USER]
    assert messages == ["toy: fail=user: asked for; leave it out (rank 0, exit code 2)"]
    assert output[0].splitlines()[-1] == f"error: {messages[0]}"


@pytest.mark.parametrize("procs", [1, 2])
def test_told_to_stop_every_process_leaves(toy: StageSpec, tmp_path: Path, procs: int) -> None:
    runs = tmp_path / "runs"
    job = started(toy, tmp_path, {"pause": 300, "runs": str(runs)})
    node = trainer(tmp_path, job, 0, 0, "--nodes", "1", "--procs", str(procs))
    end = time.monotonic() + 60
    while not runs.exists() or len(runs.read_text().splitlines()) < procs:
        assert time.monotonic() < end
        time.sleep(0.02)
    node.send_signal(signal.SIGTERM)
    codes, messages, _ = finished(tmp_path, [node])
    assert codes == [EXIT_TRANSIENT]
    assert messages[0].startswith("told to stop (SIGTERM) (rank ")


def test_told_to_stop_a_node_that_is_done_does_not_wait_for_the_others(
    toy: StageSpec, tmp_path: Path
) -> None:
    """The other one fails: torchrun would wait for it as long as a pod has until it is killed."""
    job, port = started(toy, tmp_path, {"fail": "user", "fail_rank": 1}), free_port()
    first, second = (trainer(tmp_path, job, rank, port, "--nodes", "2", "--procs", "1") for rank in (0, 1))
    end = time.monotonic() + 60
    while second.poll() is None or published(open_store(job.storage), "toy", job.key) is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    agent = only_child(first.pid)
    while ranks := children(agent):
        assert time.monotonic() < end, ranks
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    codes, messages, _ = finished(tmp_path, [first, second])
    assert codes == [EXIT_USER, EXIT_USER]
    assert messages[0] == "toy: fail=user: asked for; leave it out (torchrun, SIGKILL)"


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def only_child(pid: int) -> int:
    (child,) = children(pid)
    return child


def test_nodes_that_do_not_find_each_other_may_try_again(toy: StageSpec, tmp_path: Path) -> None:
    job = started(toy, tmp_path, {})
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        environ = {"COMPOSE_RL_RENDEZVOUS_SECONDS": "1"}
        lost = environ | {"MASTER_ADDR": "nowhere.invalid", "RANK": "1"}
        port = int(taken.getsockname()[1])
        nodes = [
            trainer(tmp_path, job, rank, port, "--nodes", "2", **more)
            for rank, more in enumerate((environ, lost))
        ]
        codes, messages, output = finished(tmp_path, nodes)
    assert codes == [EXIT_TRANSIENT, EXIT_TRANSIENT]
    for message, reason in zip(messages, ("already in use", "nowhere.invalid"), strict=True):
        assert message.startswith("trainer: the nodes did not find each other")
        assert reason in message
    assert "trainer: waiting for" in output[0]


def test_it_starts_without_torch() -> None:
    code = "import sys, compose_rl.launch.trainer; print('torch' in sys.modules, 'boto3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
