"""Fixtures of tests of engines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that ran here before may have started servers, which leaves their token in the environment."""
    monkeypatch.delenv("COMPOSE_RL_ROLLOUT_TOKEN", raising=False)


@pytest.fixture
def model() -> Any:
    pytest.importorskip("torch")
    from small_llama import small_llama

    return small_llama()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a Hugging Face folder."""
    pytest.importorskip("torch")
    from small_llama import small_llama

    path = tmp_path_factory.mktemp("small") / "model"
    small_llama().save_pretrained(path)
    return path


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[..., Any]]:
    """Start a server with engine ``hf`` in a thread; its address and the server."""
    from compose_rl.config.rollouts import RolloutEngine
    from compose_rl.rollouts.server.hf_backend import HFBackend
    from compose_rl.rollouts.server.service import RolloutServer

    started: list[tuple[RolloutServer, threading.Thread]] = []

    def start(model: Path = folder, backend: Any = None) -> tuple[str, RolloutServer]:
        backend = backend or HFBackend(model, RolloutEngine(options={"rows": 4}))
        server = RolloutServer(("127.0.0.1", 0), backend, model)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        started.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}", server

    yield start
    for server, thread in started:
        server.shutdown()
        server.server_close()
        thread.join()
