"""A server with vLLM in the environment ``rollout``, and models that it can run on CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm_models import HEADS, llama

from compose_rl.config.rollouts import RolloutEngine
from compose_rl.rollouts.client import ServerGenerator
from compose_rl.rollouts.engines import make_generator

Start = Callable[..., ServerGenerator]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Two Llamas that differ in their weights; ``model.name_or_path`` is each one's folder."""
    made = []
    for seed in (0, 1):
        model = llama(seed)
        folder = tmp_path_factory.mktemp(f"model{seed}")
        model.save_pretrained(folder)
        model.name_or_path = str(folder)
        made.append(model)
    return made


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start an engine for a model with settings of ``engine:``; ended with the session."""
    started: list[ServerGenerator] = []

    def make(model: Any, **settings: Any) -> ServerGenerator:
        # Graphs and compilation are left out to start in half the time; benchmarks/rollouts_vllm.py has them.
        values = {"kind": "vllm", "kv_cache_gib": 0.25, "enforce_eager": True, "start_timeout": 400.0}
        engine = RolloutEngine.model_validate(values | settings)
        logs = tmp_path_factory.mktemp("logs")
        made = make_generator(engine, model, Path(model.name_or_path), logs=logs, rows=1, max_length=256)
        assert isinstance(made, ServerGenerator)
        started.append(made)
        return made

    yield make
    for one in started:
        one.close()


@pytest.fixture(scope="session")
def generator(start: Start, models: list[Any]) -> ServerGenerator:
    """Of the first model, in float32, with a prefix cache of blocks of 32 tokens and steps of 256 tokens."""
    return start(models[0], options={"block_size": 32, "max_num_batched_tokens": 256, "max_num_seqs": 64})


@pytest.fixture(scope="session")
def too_narrow(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A Llama with heads of 16, which vLLM's attention on CPU does not have."""
    model = llama(0, num_attention_heads=2 * HEADS)
    model.name_or_path = str(tmp_path_factory.mktemp("narrow"))
    model.save_pretrained(model.name_or_path)
    return model


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
