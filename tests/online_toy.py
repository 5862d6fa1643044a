"""A bandit with a known optimum: a token is right when its number is a multiple of 4.

A policy of random weights is right a quarter of the time, and at best always. Also the reward, by its dotted
name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tiny_training as tiny

from compose_rl.store.manifest import Manifest

KINDS = 4
ANSWER = 6
GENERATIONS, PROMPTS = 4, 8


def right_tokens(prompt: str, answer: str, reference: str) -> float:
    """Right tokens of an answer, as a share of the longest answer's."""
    del prompt, reference
    return sum(int(word[1:]) % KINDS == 0 for word in answer.split()) / ANSWER


def first_right(prompt: str, answer: str, reference: str) -> float:
    """Whether the first token is right: of a quarter of answers, so that many groups have no signal."""
    del prompt, reference
    words = answer.split()
    return float(bool(words) and int(words[0][1:]) % KINDS == 0)


def nothing(prompt: str, answer: str, reference: str) -> float:
    """The same for every answer."""
    del prompt, answer, reference
    return 1.0


def fails(prompt: str, answer: str, reference: str) -> float:
    raise ValueError("out of order")


def fails_for_some(prompt: str, answer: str, reference: str) -> float:
    del prompt, reference
    if len(answer) % 2:
        raise ValueError("an odd answer")
    return 0.0


def fails_in_the_second_process(prompt: str, answer: str, reference: str) -> float:
    if os.environ.get("RANK") == "1":
        raise ValueError("out of order")
    return right_tokens(prompt, answer, reference)


def prompts(folder: Path, count: int = 64, columns: Mapping[str, Any] | None = None) -> Manifest:
    """A tokenize manifest of prompts of 1 to 3 tokens; ``columns``: what each has beside them."""
    generator = np.random.default_rng(5)
    rows = [{"prompt": tiny.tokens(generator, 1, 4)} | dict(columns or {}) for _ in range(count)]
    data = tiny.data_manifest(folder, "single_prompt", rows, rows[:8])
    return data.model_copy(update={"info": data.info | {"longest": 3}})


def judge(folder: Path, model: Path) -> Manifest:
    """An export manifest of a reward model with random weights, of the policy's size and tokenizer."""
    import torch
    from transformers import AutoConfig, LlamaForSequenceClassification

    torch.manual_seed(3)
    config = AutoConfig.from_pretrained(model, num_labels=1, initializer_range=0.3)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tiny.write_tokenizer(folder)
    info = {"model_class": "sequence_classification", "vocab_size": tiny.VOCAB}
    return tiny.manifest("export", folder, {"model": folder}, info)


def inputs(folder: Path, model: Path) -> dict[str, Manifest]:
    return {"model": tiny.model_manifest(model), "prompts": prompts(folder)}


def config(**changed: Any) -> dict[str, Any]:
    """The stage's document; ``variables`` and ``model`` are laid over those here."""
    variables: dict[str, Any] = {
        "max_gen_len": ANSWER,
        "generations_per_prompt": GENERATIONS,
        "num_unique_prompts_per_iter": PROMPTS,
        "device_generate_batch_size": 32,
        "rewards": {"right": {"reward_type": "online_toy.right_tokens"}},
        "kl_controller": {"init_kl_coef": 0.0},
    }
    model: dict[str, Any] = {"name": "hf_critic_free_lm", "loss_type": "grpo"}
    document: dict[str, Any] = {
        "global_train_batch_size": PROMPTS * GENERATIONS,
        "device_train_microbatch_size": PROMPTS,
        "optimizer": {"lr": 0.01},
        "max_duration": "4iter",
        "save_interval": "1000iter",
        "python_log_level": "error",
    }
    document["model"] = model | changed.pop("model", {})
    document["variables"] = variables | changed.pop("variables", {})
    return document | changed
