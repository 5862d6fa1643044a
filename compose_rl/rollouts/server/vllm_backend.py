"""Engine ``vllm`` of the rollout server; runs in the environment ``rollout``.

Weights come as a folder of safetensors, which vLLM loads in place (``vllm_worker.py``). LoRA needs no more:
the trainer pushes the policy with its adapter merged into it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compose_rl.config.rollouts import RolloutEngine
from compose_rl.errors import UserError
from compose_rl.rollouts.server.engine_thread import EngineThread
from compose_rl.rollouts.types import Completion, Request, Sampling

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams
    from vllm.v1.engine.llm_engine import LLMEngine

__all__ = ["VLLMBackend"]

_ENVIRONMENT = {
    # The engine is in this process: a killed server leaves none behind that holds memory, and starts sooner.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # OpenMP's threads as the environment says: the trainer may have cores of the same machine.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
_GIB = 1 << 30
_PARALLEL = 8
"""Requests to the server at a time: they share the batch, and each that is answered shows progress."""


class VLLMBackend:
    """vLLM with one model.

    Args:
        model: folder of the Hugging Face model.
        engine: its settings.
        max_length: tokens of a prompt and its answer; null: as many as the model has positions.

    Raises:
        UserError: vLLM cannot run the model, or the settings do not fit this machine.
    """

    def __init__(self, model: Path, engine: RolloutEngine, max_length: int | None = None) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        arguments = engine_arguments(model, engine, max_length)
        self._thread = EngineThread(lambda: build_engine(arguments))
        config = self._thread.call(lambda engine: engine.model_config)
        self.version = 0
        self.vocab_size: int = config.get_vocab_size()
        self.max_length: int = config.max_model_len
        self._logprobs_mode = str(config.logprobs_mode)
        self._dtype = str(config.dtype).removeprefix("torch.")
        self._can_sleep = bool(config.enable_sleep_mode)
        self._asleep = False

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        """Answers to each request, one for each of its seeds; requests of several threads share the batch.

        Raises:
            UserError: log-probabilities before ``top_p`` and ``top_k`` are not to be had.
        """
        check_logprobs(sampling, self._logprobs_mode)
        asked = [
            (list(request.prompt), sampling_params(sampling, seed))
            for request in requests
            for seed in request.seeds
        ]
        answers = iter(self._thread.generate(asked))
        return [[completion(next(answers), self.version) for _ in request.seeds] for request in requests]

    def load_weights(self, folder: Path, version: int) -> None:
        def load(engine: LLMEngine) -> None:
            engine.collective_rpc("reload_policy", args=(str(folder),))
            # What is cached of a prompt are the old weights' keys and values.
            if not engine.reset_prefix_cache():
                raise RuntimeError("vLLM's prefix cache could not be emptied: an answer is being written")

        self._thread.call(load)
        self.version = version

    def sleep(self) -> None:
        if not self._can_sleep:
            raise UserError("engine.sleep: this server was started without it; start it with sleep: true")
        if not self._asleep:
            self._thread.call(lambda engine: engine.sleep(level=1))
            self._asleep = True

    def wake(self) -> None:
        if self._asleep:
            self._thread.call(lambda engine: engine.wake_up())
            self._asleep = False

    def health(self) -> dict[str, Any]:
        answered = self._thread.answered
        return {"engine": "vllm", "dtype": self._dtype, "parallel": _PARALLEL, "answered": answered}

    def close(self) -> None:
        self._thread.close()


def engine_arguments(model: Path, engine: RolloutEngine, max_length: int | None) -> dict[str, Any]:
    """vLLM's own arguments.

    Raises:
        UserError: a setting that this machine or vLLM does not have.
    """
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform

    on_cpu = current_platform.is_cpu()
    if engine.sleep and on_cpu:
        raise UserError("engine.sleep: true frees a GPU's memory, and this server runs on CPU; leave it out")
    arguments: dict[str, Any] = {
        "model": str(model),
        "dtype": ("float32" if on_cpu else "bfloat16") if engine.dtype == "auto" else engine.dtype,
        "max_model_len": max_length,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "enable_prefix_caching": engine.prefix_caching,
        "enforce_eager": engine.enforce_eager,
        "enable_sleep_mode": engine.sleep,
        # Tokens come and go: neither the tokenizer nor the model's defaults of sampling have a say.
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "disable_log_stats": True,
        "worker_extension_cls": "compose_rl.rollouts.server.vllm_worker.PolicyWorker",
    }
    if on_cpu:
        arguments["kv_cache_memory_bytes"] = int(engine.kv_cache_gib * _GIB)
        # A prompt goes through the model in one step: of one that went in parts vLLM turns the seed's
        # generator back, which PyTorch's for CPU cannot do.
        arguments["enable_chunked_prefill"] = False
    else:
        arguments["gpu_memory_utilization"] = engine.gpu_memory_utilization
    known = {field.name for field in fields(EngineArgs)} - set(arguments)
    for name in engine.options:
        if name not in known:
            raise UserError(
                f"engine.options.{name}: {engine.options[name]!r}: vLLM has no such argument, or it is set by"
                " another key of engine; see vLLM's EngineArgs"
            )
    # As sampled, at the temperature; see check_logprobs.
    return arguments | {"logprobs_mode": "processed_logprobs"} | engine.options


def build_engine(arguments: dict[str, Any]) -> LLMEngine:
    """Load the model, make the engine, and have it write a token: some of what it lacks shows only then.

    Raises:
        UserError: vLLM refuses the model or an argument.
    """
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine

    try:
        # Of vLLM's defaults those for many answers at a time: 1024 on a large GPU, where it would be 128.
        engine = LLMEngine.from_engine_args(EngineArgs(**arguments), usage_context=UsageContext.LLM_CLASS)
        first = sampling_params(Sampling(max_new_tokens=1, temperature=1.0, stop=()), seed=0)
        engine.add_request("first", {"prompt_token_ids": [0]}, first)
        while engine.has_unfinished_requests():
            engine.step()
    except (ValueError, RuntimeError) as problem:
        message = " ".join(str(problem).split())[:500]
        raise UserError(f"engine: vLLM refuses {arguments['model']}: {message}") from problem
    return engine


def check_logprobs(sampling: Sampling, mode: str) -> None:
    """Check that the engine's log-probabilities are those of softmax(logits / temperature).

    vLLM takes them either before the temperature (``raw_logprobs``) or after ``top_k`` and ``top_p``
    (``processed_logprobs``, our default).

    Raises:
        UserError: they are not, with the remedy.
    """
    filtered = sampling.top_k > 0 or sampling.top_p < 1
    if mode == "processed_logprobs" and not filtered:
        return
    if mode == "raw_logprobs" and sampling.temperature == 1:
        return
    asked = f"temperature={sampling.temperature}, top_p={sampling.top_p}, top_k={sampling.top_k}"
    if sampling.temperature == 1:
        remedy = "set engine.options.logprobs_mode: raw_logprobs"
    elif filtered:
        remedy = "set temperature: 1, or top_p: 1 and top_k: 0, or take engine hf"
    else:
        remedy = "set engine.options.logprobs_mode: processed_logprobs"
    raise UserError(
        f"generation_kwargs: {asked}: vLLM with logprobs_mode={mode} does not give the log-probabilities of"
        f" softmax(logits / temperature); {remedy}"
    )


def sampling_params(sampling: Sampling, seed: int) -> SamplingParams:
    """One answer's."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=seed,
        max_tokens=sampling.max_new_tokens,
        stop_token_ids=list(sampling.stop),
        # The model's own end token ends an answer only if it is among those of ``stop``.
        ignore_eos=True,
        logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def completion(output: RequestOutput, version: int) -> Completion:
    """vLLM's answer as ours; the token that ended it is the last one."""
    (answer,) = output.outputs
    return Completion(
        tokens=tuple(answer.token_ids),
        logprobs=tuple(answer.logprobs.logprobs),
        finished=answer.finish_reason == "stop",
        version=version,
    )
