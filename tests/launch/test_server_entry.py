"""What a server pod's container runs: exit codes decide whether Kubernetes puts another in its place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import online_toy as toy
import tiny_training as tiny

from compose_rl.errors import EXIT_USER
from compose_rl.store import open_store
from compose_rl.store.leases import Leases

pytestmark = pytest.mark.slow

Start = Callable[..., tuple[subprocess.Popen[str], str]]


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the program for a job on a tiny model; the process and the server's address."""
    model = tiny.write_model(tmp_path / "model")
    inputs = toy.inputs(tmp_path / "data", model)
    started: list[subprocess.Popen[str]] = []

    def run(*, lease_minutes: float | None = None, **engine: Any) -> tuple[subprocess.Popen[str], str]:
        # The reward is a file of the trainers: a server must not need it.
        config = toy.config(variables={"engine": {"kind": "server", **engine}})
        job = tiny.job_file("online_rl", config, inputs, tmp_path, "a1")
        job = job.model_copy(update={"lease_minutes": lease_minutes})
        place = tmp_path / job.folder / "job.json"
        place.parent.mkdir(parents=True)
        place.write_text(job.model_dump_json())
        port = free_port()
        words = [sys.executable, "-m", "compose_rl.launch.server", "--job", str(place), f"--port={port}"]
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ
        )
        started.append(process)
        if lease_minutes is not None:
            threading.Thread(target=held, args=(Leases(open_store(str(tmp_path)), job.key), process)).start()
        return process, f"http://127.0.0.1:{port}"

    yield run
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


serving = threading.Event()


def held(leases: Leases, process: subprocess.Popen[str]) -> None:
    """A launcher that holds the job until the server serves, and is then gone."""
    while process.poll() is None and not serving.is_set():
        leases.renew("launcher")
        time.sleep(0.2)


def health(url: str, process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait until it serves."""
    end = time.monotonic() + 90
    while True:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                return json.load(answer)
        except OSError:
            assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
            time.sleep(0.2)


def test_told_to_stop_it_does_not_end_as_if_its_work_were_done(start: Start) -> None:
    process, _ = start()
    assert process.stdout is not None
    assert process.stdout.readline().startswith("rollout server: for online_rl, key ")
    time.sleep(1)  # the server itself is being loaded
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM


def test_it_serves_the_jobs_model_as_long_as_a_lease_is_renewed(start: Start) -> None:
    serving.clear()
    process, url = start(lease_minutes=0.05)
    found = health(url, process)
    assert (found["engine"], found["vocab_size"], found["version"]) == ("hf", tiny.VOCAB, 0)
    assert found["max_length"] == 3 + toy.ANSWER
    time.sleep(6)  # twice as long as a lease lasts
    assert process.poll() is None
    serving.set()
    assert process.wait(40) == 0
    assert "no launcher holds this job any more" in process.communicate()[0]


def test_what_the_engine_refuses_is_one_line_and_no_reason_to_start_another(start: Start) -> None:
    process, _ = start(options={"rows": 0})
    assert process.wait(120) == EXIT_USER
    last = process.communicate()[0].strip().splitlines()[-1]
    assert last.startswith("rollout server: engine.options.rows: 0")
