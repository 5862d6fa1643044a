"""Reward models of 2 layers as exported folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_training import EOS, PAD, VOCAB, write_tokenizer


def write_reward_model(folder: Path, kind: str = "linear", **changes: Any) -> Path:
    """A reward model with random weights and its tokenizer; ``kind`` is the head's name."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    from compose_rl.models.hf_reward import AutoModelForCausalLMWithRM, RewardModelConfig

    torch.manual_seed(3)
    keys: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 0.3,
        "max_position_embeddings": 64,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
        "num_labels": 1,
    }
    config = LlamaConfig(**(keys | changes))
    if kind == "linear":
        LlamaForSequenceClassification(config).save_pretrained(folder)
    else:
        language_model = LlamaForCausalLM(config)
        head = RewardModelConfig(config, n_labels=1, p_dropout=0.5, bias=0.25)
        AutoModelForCausalLMWithRM(head, language_model).save_pretrained(folder)
    write_tokenizer(folder)
    return folder
