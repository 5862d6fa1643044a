"""Answers to prompts: batched, left-padded, the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedModel

__all__ = ["Answer", "Sampling", "generate", "stop_tokens"]

Tokens = list[int]


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens."""

    max_new_tokens: int
    temperature: float
    """0: the likeliest token always."""
    seed: int
    batch_size: int
    stop: tuple[int, ...]
    """Tokens that end an answer."""
    pad: int


@dataclass(frozen=True)
class Answer:
    """An answer with its end token, if it came to one."""

    tokens: Tokens
    finished: bool
    """False: cut at ``max_new_tokens``."""


def stop_tokens(model: PreTrainedModel, tokenizer_eos: int | None) -> tuple[int, ...]:
    """The tokens that end an answer: the model's own, else the tokenizer's."""
    eos = model.generation_config.eos_token_id if model.generation_config else None
    if eos is None:
        eos = tokenizer_eos
    if eos is None:
        return ()
    return tuple(eos) if isinstance(eos, list) else (eos,)


def generate(
    model: PreTrainedModel,
    prompts: list[Tokens],
    sampling: Sampling,
    done: Callable[[int], None] = lambda n: None,
) -> list[Answer]:
    """An answer to each prompt, in their order.

    Prompts of like length go into a batch, so little is padded. The caller's random state is left alone.

    Args:
        done: told after each batch how many prompts it had.
    """
    config = _config(sampling)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: dict[int, Answer] = {}
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.inference_mode(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(sampling.seed)
        for start in range(0, len(order), sampling.batch_size):
            batch = order[start : start + sampling.batch_size]
            input_ids, mask = _left_padded([prompts[index] for index in batch], sampling.pad)
            output = model.generate(
                input_ids=input_ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=config,
            )
            new = output[:, input_ids.size(1) :].tolist()
            answers.update(zip(batch, (_ended(row, sampling.stop) for row in new), strict=True))
            done(len(batch))
    return [answers[index] for index in range(len(prompts))]


def _config(sampling: Sampling) -> GenerationConfig:
    greedy = sampling.temperature == 0
    # top_k 0 and top_p 1: samples of the model's own distribution, as the estimate of KL needs them.
    random = {"temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=not greedy,
        eos_token_id=list(sampling.stop) or None,
        pad_token_id=sampling.pad,
        **({} if greedy else random),
    )


def _left_padded(prompts: list[Tokens], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, prompts))
    input_ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return input_ids, mask


def _ended(tokens: Tokens, stop: tuple[int, ...]) -> Answer:
    """``tokens`` up to and with the first stop token."""
    for index, token in enumerate(tokens):
        if token in stop:
            return Answer(tokens[: index + 1], finished=True)
    return Answer(tokens, finished=False)
