"""Engine ``hf`` of the rollout server: a plain model of transformers; runs in the environment ``train``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from compose_rl.config.rollouts import RolloutEngine
from compose_rl.errors import UserError
from compose_rl.rollouts.hf import HFGenerator, model_limits
from compose_rl.rollouts.types import Completion, Request, Sampling

__all__ = ["HFBackend"]

_ROWS = 64
"""Answers that are written at once, where ``engine.options.rows`` says nothing."""


class HFBackend:
    """transformers with the project's own loop.

    Args:
        model: folder of the Hugging Face model.
        engine: its settings; of ``options`` it knows ``rows``.
        max_length: tokens of a prompt and its answer; null: as many as the model has positions.

    Raises:
        UserError: an option that it does not know, or a folder that is no model.
    """

    def __init__(self, model: Path, engine: RolloutEngine, max_length: int | None = None) -> None:
        rows = _rows(engine)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = {"auto": "bfloat16" if device.type == "cuda" else "float32"}.get(engine.dtype, engine.dtype)
        try:
            module = AutoModelForCausalLM.from_pretrained(
                model, torch_dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True
            )
        except (OSError, ValueError) as problem:
            message = " ".join(str(problem).split())[:300]
            raise UserError(f"model: {model}: transformers cannot load it: {message}") from problem
        self._generator = HFGenerator(module.to(device).eval(), rows=rows, shares_weights=False)
        self._module = module
        self._device = device
        self._lock = threading.Lock()
        self._answered = 0
        self.vocab_size, most = model_limits(module)
        self.max_length = min(max_length or most or _UNBOUNDED, most or _UNBOUNDED)

    @property
    def version(self) -> int:
        return self._generator.version

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        """Answers to each request; one call at a time."""
        with self._lock:
            return self._generator.generate(requests, sampling, self._count)

    def _count(self, answers: int) -> None:
        self._answered += answers

    def load_weights(self, folder: Path, version: int) -> None:
        weights = {
            name: tensor
            for file in sorted(folder.glob("*.safetensors"))
            for name, tensor in load_file(file).items()
        }
        self._generator.push(weights.items(), version)

    def sleep(self) -> None:
        self._module.to("cpu")
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def wake(self) -> None:
        self._module.to(self._device)

    def health(self) -> dict[str, Any]:
        dtype = str(self._module.dtype).removeprefix("torch.")
        return {"engine": "hf", "dtype": dtype, "parallel": 1, "answered": self._answered}

    def close(self) -> None:
        self._generator.close()


_UNBOUNDED = 1 << 31


def _rows(engine: RolloutEngine) -> int:
    foreign = sorted(set(engine.options) - {"rows"})
    if foreign:
        raise UserError(f"engine.options.{foreign[0]}: engine server knows only 'rows'; leave it out")
    rows = engine.options.get("rows", _ROWS)
    if not isinstance(rows, int) or rows < 1:
        raise UserError(f"engine.options.rows: {rows!r}: give the number of answers written at once")
    return rows
