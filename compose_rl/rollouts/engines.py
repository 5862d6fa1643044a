"""Which engine generates."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from compose_rl.config.rollouts import RolloutEngine
from compose_rl.rollouts.client import ServerGenerator
from compose_rl.rollouts.hf import HFGenerator
from compose_rl.rollouts.places import GivenServers, Servers
from compose_rl.rollouts.supervisor import LocalServers
from compose_rl.rollouts.types import Generator

__all__ = ["URLS_VARIABLE", "make_generator"]

URLS_VARIABLE = "COMPOSE_RL_ROLLOUT_URLS"
"""Addresses of servers that the launcher started, with commas between them."""


def make_generator(
    engine: RolloutEngine,
    policy: nn.Module,
    model: Path,
    *,
    logs: Path,
    rows: int,
    max_length: int | None = None,
    dtype: torch.dtype | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Generator:
    """The engine that settings ask for; servers are started, but not waited for.

    Where it is ``shared`` only rank 0 makes one.

    Args:
        policy: the model that is trained, with which engine ``hf`` generates.
        model: folder of the Hugging Face model that servers start from.
        logs: folder for what servers print.
        rows: answers that engine ``hf`` writes at once.
        max_length: tokens of a prompt and its answer together.
        dtype: of engine ``hf``'s products, where it is not the model's own.
        say: is told what happens to servers.

    Raises:
        UserError: the engine cannot be had here.
    """
    if engine.kind == "hf":
        return HFGenerator(policy, rows=rows, dtype=dtype)
    urls = engine.urls or [url for url in os.environ.get(URLS_VARIABLE, "").split(",") if url]
    servers: Servers
    if urls:
        servers = GivenServers(urls, engine.start_timeout)
    else:
        servers = LocalServers(engine, model, logs=logs, max_length=max_length, gpus=_gpus(engine), say=say)
    return ServerGenerator(
        servers, request_timeout=engine.request_timeout, sleeps=engine.sleep, sync=engine.sync, say=say
    )


def _gpus(engine: RolloutEngine) -> Sequence[str] | None:
    """The last of this machine's GPUs, the first being the trainer's; None: there is no choice to make."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    needed = engine.servers * engine.tensor_parallel_size
    if engine.sleep or len(devices) <= 1 or needed > len(devices):
        return None
    return devices[-needed:]
