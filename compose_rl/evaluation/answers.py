"""Answers of a model to held-out prompts, by the engine that answers in online RL."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compose_rl.config.evaluate import Evaluate
from compose_rl.rollouts.decoding import decode
from compose_rl.rollouts.hf import stop_tokens
from compose_rl.rollouts.seeds import answer_seed
from compose_rl.rollouts.types import Completion, Request, Sampling

__all__ = ["answer_prompts"]


def answer_prompts(
    model: PreTrainedModel,
    prompts: list[list[int]],
    config: Evaluate,
    tokenizer: PreTrainedTokenizerBase,
    done: Callable[[int], None] = lambda count: None,
) -> list[Completion]:
    """An answer to each prompt, in their order.

    A prompt has the same seed whichever model answers it. The caller's random state is left alone.

    Args:
        model: in evaluation mode.
        done: told how many answers have come since it was last called.
    """
    requests = [
        Request(tuple(prompt), (answer_seed(config.seed, 0, number),))
        for number, prompt in enumerate(prompts)
    ]
    sampling = Sampling(config.max_new_tokens, config.temperature, stop_tokens(model, tokenizer))
    with torch.inference_mode():
        groups = decode(model, requests, sampling, rows=config.batch_size, done=done)
    return [answer for group in groups for answer in group]
