"""Servers as processes: they are killed, come back, and end with those who started them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from small_llama import END, small_llama  # noqa: E402

from compose_rl.config.rollouts import RolloutEngine  # noqa: E402
from compose_rl.errors import TransientError, UserError  # noqa: E402
from compose_rl.rollouts.engines import make_generator  # noqa: E402
from compose_rl.rollouts.hf import HFGenerator  # noqa: E402
from compose_rl.rollouts.messages import TOKEN_VARIABLE  # noqa: E402
from compose_rl.rollouts.supervisor import LocalServers  # noqa: E402
from compose_rl.rollouts.types import Request, Sampling  # noqa: E402

SAMPLING = Sampling(max_new_tokens=40, temperature=0.9, stop=())
REQUESTS = [Request((5, 6, 7 + n), tuple(range(20 * n, 20 * n + 20))) for n in range(10)]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPOSE_RL_ENV_TRAIN", sys.prefix)
    monkeypatch.setenv(TOKEN_VARIABLE, "of-this-test")
    monkeypatch.delenv("COMPOSE_RL_ROLLOUT_URLS", raising=False)


def children() -> list[int]:
    """Process ids of this process's rollout servers."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        if b"compose_rl.rollouts.server" in words and parent == os.getpid():
            found.append(int(entry.name))
    return found


def wait_until_gone(pid: int) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} is still there")


@pytest.mark.slow
def test_a_killed_server_is_started_again_with_the_newest_weights(folder: Path, tmp_path: Path, model: Any):
    said: list[str] = []
    engine = RolloutEngine(kind="server", options={"rows": 8})
    generator = make_generator(engine, model, folder, logs=tmp_path, rows=8, say=said.append)
    assert generator.shared
    other = small_llama()
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(0.7)
    generator.push(other.named_parameters(), 2)
    (server,) = children()
    results: list[Any] = []
    asking = threading.Thread(target=lambda: results.append(generator.generate(REQUESTS, SAMPLING)))
    asking.start()
    time.sleep(0.3)
    assert asking.is_alive(), "the generation ended before it was disturbed"
    os.kill(server, signal.SIGKILL)
    asking.join(120)
    expected = HFGenerator(other, rows=8).generate(REQUESTS[:1], SAMPLING)[0]
    assert [answer.tokens for answer in results[0][0]] == [answer.tokens for answer in expected]
    assert {answer.version for group in results[0] for answer in group} == {2}
    assert any("ended with code -9; restart 1" in line for line in said)
    (again,) = children()
    assert again != server
    generator.close()
    assert children() == []


@pytest.mark.slow
def test_a_server_ends_with_the_process_that_started_it(folder: Path, tmp_path: Path):
    script = f"""
import os, sys, time
from pathlib import Path
from compose_rl.config.rollouts import RolloutEngine
from compose_rl.rollouts.supervisor import LocalServers
servers = LocalServers(RolloutEngine(kind="server"), Path({str(folder)!r}), logs=Path({str(tmp_path)!r}))
servers.url(0)
print(servers._started[0].process.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    server = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    wait_until_gone(server)


@pytest.mark.slow
def test_an_idle_server_ends_by_itself(folder: Path, tmp_path: Path):
    ready = tmp_path / "ready.json"
    words = [sys.executable, "-m", "compose_rl.rollouts.server", "--backend", "hf", "--model", str(folder)]
    words += ["--idle-minutes", "0.01", "--ready-file", str(ready)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "not asked for 1 s, ends" in ended.stdout
    assert json.loads(ready.read_text())["url"].startswith("http://127.0.0.1:")


def test_a_server_that_cannot_start_says_why(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    servers = LocalServers(RolloutEngine(kind="server"), tmp_path, logs=tmp_path / "logs")
    with pytest.raises(UserError, match=r"^model.safetensors: is not a safetensors file"):
        servers.url(0)
    servers.close()


def test_a_server_that_always_ends_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    python = tmp_path / "environment" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho no memory\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setenv("COMPOSE_RL_ENV_TRAIN", str(tmp_path / "environment"))
    said: list[str] = []
    engine = RolloutEngine(kind="server", max_restarts=2)
    servers = LocalServers(engine, tmp_path, logs=tmp_path / "logs", say=said.append)
    with pytest.raises(TransientError, match=r"ended with code 3 after 2 restarts .* it ends: no memory"):
        servers.url(0)
    assert len(said) == 2
    servers.close()


def test_too_few_gpus_are_refused(folder: Path, tmp_path: Path):
    engine = RolloutEngine(kind="server", servers=2, tensor_parallel_size=2)
    with pytest.raises(UserError, match="need 4 GPUs, and 3 are left"):
        LocalServers(engine, folder, logs=tmp_path, gpus=["0", "1", "2"])


def test_addresses_from_the_launcher_are_used(
    folder: Path, tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Any]
):
    urls = [serve()[0], serve()[0]]
    monkeypatch.setenv("COMPOSE_RL_ROLLOUT_URLS", ",".join(urls))
    generator = make_generator(RolloutEngine(kind="vllm"), model, folder, logs=tmp_path, rows=8)
    short = Sampling(max_new_tokens=3, temperature=1.0, stop=(END,))
    expected = HFGenerator(model, rows=8).generate(REQUESTS[:2], short)
    answers = generator.generate(REQUESTS[:2], short)
    assert [[a.tokens for a in group] for group in answers] == [
        [a.tokens for a in group] for group in expected
    ]
    generator.close()
