"""A tiny Llama whose next token is far from uniform."""

from __future__ import annotations

from typing import Any

VOCAB = 40
END = 3


def small_llama(**changes: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    values = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "bos_token_id": None,
        "eos_token_id": END,
    }
    return LlamaForCausalLM(LlamaConfig(**(values | changes))).eval()
