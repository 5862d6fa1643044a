"""Tiny Llamas for vLLM, and what transformers says of an answer."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from compose_rl.rollouts.types import Completion, Request, Sampling

VOCAB = 64
END = 1
HEADS = 2
SAMPLING = Sampling(max_new_tokens=24, temperature=0.7, stop=(END,))
REQUESTS = [Request(tuple(range(5, 9 + i)), (100 * i + 1, 100 * i + 2)) for i in range(4)]
LONG = Request(tuple(2 + i % (VOCAB - 2) for i in range(100)), (1, 2))
"""Three blocks of the prefix cache."""


def llama(seed: int, **changes: Any) -> Any:
    """A Llama whose next token is far from uniform; its config names END as end token."""
    torch.manual_seed(seed)
    values = {
        "vocab_size": VOCAB,
        "hidden_size": 32 * HEADS,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": END,
        "pad_token_id": 0,
    }
    return LlamaForCausalLM(LlamaConfig(**(values | changes))).eval()


def logprobs_of(model: Any, prompt: tuple[int, ...], answer: Completion, temperature: float) -> list[float]:
    """Of each token of the answer, by transformers."""
    tokens = torch.tensor([[*prompt, *answer.tokens]])
    with torch.no_grad():
        logits = model(tokens).logits[0, len(prompt) - 1 : -1].float()
    found = torch.log_softmax(logits / temperature, -1)
    return found.gather(1, tokens[0, len(prompt) :, None])[:, 0].tolist()


def weights_of(model: Any) -> list[tuple[str, torch.Tensor]]:
    return list(model.named_parameters())


def gaps_to(
    model: Any, requests: list[Request], answers: list[list[Completion]], temperature: float
) -> list[float]:
    """Distance of each token's log-probability from transformers'."""
    return [
        abs(ours - theirs)
        for request, group in zip(requests, answers, strict=True)
        for answer in group
        for ours, theirs in zip(
            answer.logprobs, logprobs_of(model, request.prompt, answer, temperature), strict=True
        )
    ]
