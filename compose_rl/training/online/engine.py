"""The engine beside training: when it gets new weights, and the answers that it makes in advance."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from composer.core import State
from composer.utils import dist

from compose_rl.config.online_rl import OnlineVariables
from compose_rl.config.rollouts import ahead_fault
from compose_rl.errors import UserError
from compose_rl.models.weights import full_weights
from compose_rl.rollouts.engines import make_generator
from compose_rl.rollouts.types import Completion, Generator, Request, Sampling
from compose_rl.training.online.collect import Collector, Round, Seconds

__all__ = ["Engine"]

Completions = list[list[Completion]]


@dataclass
class _Ready:
    """A round that is being generated, or has been, on rank 0."""

    taken: int
    """Prompts taken before it."""
    count: int
    iteration: int
    """That it is for."""
    completions: Completions | None = None
    failure: BaseException | None = None
    thread: threading.Thread | None = None

    def wait(self) -> Completions:
        if self.thread is not None:
            self.thread.join()
        if self.failure is not None:
            raise self.failure
        return self.completions or []


class Engine:
    """A generator, what it was given, and what it does in advance.

    Args:
        document: LLM Foundry's.
        policy: the Composer model.
    """

    def __init__(
        self,
        document: Mapping[str, Any],
        variables: OnlineVariables,
        policy: Any,
        state: State,
        *,
        logs: Path,
        say: Callable[[str], None],
    ) -> None:
        self.shared = variables.engine.kind != "hf"
        self._policy = policy
        self._pushed: int | None = None
        self._ready: _Ready | None = None
        self._check(variables, state)
        self.generator: Generator | None = None
        if self.shared and dist.get_global_rank() != 0:
            return
        self.generator = make_generator(
            variables.engine,
            policy.model,
            Path(document["model"].get("pretrained_model_name_or_path", "")),
            logs=logs,
            rows=variables.device_generate_batch_size,
            max_length=document.get("max_seq_len"),
            dtype=torch.bfloat16 if document.get("precision") == "amp_bf16" else None,
            say=say,
        )

    def _check(self, variables: OnlineVariables, state: State) -> None:
        if not self.shared and state.fsdp_config is not None and dist.get_world_size() > 1:
            raise UserError(
                "variables.engine.kind='hf' generates with the trainer's own model, which fsdp_config shards"
                " over the processes; set engine.kind to server or vllm, or leave fsdp_config out"
            )
        fault = ahead_fault(variables.engine, variables.max_staleness)
        if fault is not None:
            raise UserError(f"variables.max_staleness={variables.max_staleness}: {fault}")

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, done: Callable[[int], None]
    ) -> Completions:
        """Of this process's engine; see :class:`compose_rl.rollouts.types.Generator`."""
        assert self.generator is not None
        return self.generator.generate(requests, sampling, done)

    def push(self, state: State, iteration: int, seconds: Seconds) -> dict[str, float]:
        """Hand over the policy's weights, where they have changed; what is logged of it."""
        batch = int(state.timestamp.batch)
        if self._pushed == batch:
            return {}
        self._pushed = batch
        started = time.monotonic()
        weights = full_weights(self._policy)
        if self.generator is None:
            for _ in weights:  # where they are sharded, every rank takes part in gathering them
                pass
            size = 0
        else:
            size = self.generator.push(weights, iteration).bytes
        seconds.add("push", started)
        return {"push/bytes": float(size)}

    def start_next(self, collector: Collector, taken: int, count: int, iteration: int) -> None:
        """Begin the first round of ``iteration`` in a thread of rank 0."""
        self._ready = ready = _Ready(taken=taken, count=count, iteration=iteration)
        if dist.get_global_rank() != 0:
            return
        requests = collector.round(taken, count, iteration, 0).requests

        def run() -> None:
            try:
                ready.completions = self.generate(requests, collector.sampling, lambda count: None)
            except BaseException as error:  # raised where it is waited for
                ready.failure = error

        ready.thread = threading.Thread(target=run, name="rollouts", daemon=True)
        ready.thread.start()

    def take_ready(self, collector: Collector) -> tuple[Round, Completions] | None:
        """The round made in advance and this rank's share of its answers, if there is one."""
        ready, self._ready = self._ready, None
        if ready is None:
            return None
        asked = collector.round(ready.taken, ready.count, ready.iteration, 0)
        return asked, collector.hand_out(ready.wait())

    def ready_bytes(self) -> bytes:
        """The round made in advance, for a state: waits for it, and is the same on every rank."""
        if self._ready is None:
            return b""
        whole = [self._ready.wait()]
        dist.broadcast_object_list(whole)
        saved = {
            "taken": self._ready.taken,
            "count": self._ready.count,
            "iteration": self._ready.iteration,
            "completions": [[asdict(one) for one in group] for group in whole[0]],
        }
        return json.dumps(saved).encode()

    def restore_ready(self, saved: bytes) -> None:
        if saved:
            found = json.loads(saved)
            completions = [
                [
                    Completion(**one | {name: tuple(one[name]) for name in ("tokens", "logprobs")})
                    for one in group
                ]
                for group in found.pop("completions")
            ]
            self._ready = _Ready(**found, completions=completions)

    def close(self) -> None:
        if self.generator is not None:
            self.generator.close()
