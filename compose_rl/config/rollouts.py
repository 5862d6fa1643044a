"""Settings of generation: how tokens are chosen, and which engine does it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from compose_rl.config.schema import Config, neutral

__all__ = [
    "SERVER_BACKENDS",
    "GenerationSettings",
    "RolloutEngine",
    "ServerPlan",
    "ahead_fault",
    "server_words",
]

SERVER_BACKENDS = {"server": ("hf", "train"), "vllm": ("vllm", "rollout")}
"""Kind of engine -> the server's backend and its environment."""


class GenerationSettings(Config):
    """``generation_kwargs``: transformers' names."""

    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    """0: all tokens."""
    do_sample: Literal[True] = True
    use_cache: Literal[True] = True


class RolloutEngine(Config):
    """``engine``: who generates."""

    kind: Literal["hf", "vllm", "server"] = "hf"
    """``hf``: in the trainer's process. ``vllm``: servers of the environment ``rollout`` that the stage
    starts beside itself (on a cluster: the launcher, as pods of their own). ``server``: the same protocol
    with engine ``hf`` behind it, in a process of its own."""
    servers: int = neutral(1, "how many servers are started")
    urls: list[str] | None = neutral(None, "servers that run already; none is started")
    tensor_parallel_size: int = neutral(1, "GPUs of one server")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """``auto``: bfloat16 on a GPU, float32 on CPU."""
    gpu_memory_utilization: float = neutral(0.9, "share of the GPU's memory, of engine vllm")
    kv_cache_gib: float = neutral(1.0, "memory of vLLM's cache on CPU")
    prefix_caching: bool = neutral(True, "of engine vllm")
    enforce_eager: bool = neutral(False, "without CUDA graphs, of engine vllm")
    sleep: bool = neutral(False, "free the GPU while training: engine and trainer share it")
    sync: Literal["file", "nccl"] = neutral("file", "how weights get to the servers")
    start_timeout: float = neutral(600.0, "seconds that a server has to start")
    request_timeout: float = neutral(600.0, "seconds that a server has for a request")
    max_restarts: int = neutral(3, "how often a server that died is started again in an iteration")
    options: dict[str, Any] = Field(default_factory=dict[str, Any])
    """More of the engine's own arguments."""


def ahead_fault(engine: RolloutEngine, max_staleness: int) -> str | None:
    """Why the engine cannot generate while the trainer trains; None where it can, or need not."""
    if not max_staleness:
        return None
    if engine.kind == "hf":
        return (
            "engine 'hf' generates in the trainer's process, which then does not train;"
            " set engine.kind to vllm or server, or max_staleness to 0"
        )
    if engine.sleep:
        return (
            "engine.sleep=true frees the GPU while training, when the engine has to generate;"
            " leave engine.sleep out, or set max_staleness to 0"
        )
    return None


def server_words(engine: RolloutEngine, model: Path, max_length: int | None) -> list[str]:
    """What comes after ``python`` to start a rollout server (``compose_rl/rollouts/server``).

    Args:
        model: folder of the Hugging Face model.
        max_length: tokens of a prompt and its answer together; None: as many as the model takes.
    """
    backend, _ = SERVER_BACKENDS[engine.kind]
    words = ["-m", "compose_rl.rollouts.server", "--backend", backend, "--model", str(model)]
    words += ["--engine", engine.model_dump_json()]
    return words if max_length is None else [*words, "--max-length", str(max_length)]


@dataclass(frozen=True)
class ServerPlan:
    """Servers that a stage's engine needs, as far as configuration and inputs say it."""

    engine: RolloutEngine
    max_length: int
    """Tokens of a prompt and its answer together."""

    @classmethod
    def of(cls, engine: RolloutEngine, max_length: int) -> ServerPlan | None:
        """None where the engine needs no servers, or is given some that run already."""
        return cls(engine, max_length) if engine.kind in SERVER_BACKENDS and not engine.urls else None
