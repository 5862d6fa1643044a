"""What a training stage leaves beside its weights, so that ``export`` needs nothing else: ``checkpoint/hf``.

It is a Hugging Face folder without weights: ``config.json`` with the class that the weights belong to, the
tokenizer with its chat template, ``generation_config.json`` of a language model, and ``adapter_config.json``
where LoRA was trained.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME

from compose_rl.models.backbone import unwrapped
from compose_rl.models.padding import set_padding_token
from compose_rl.models.scoring import LinearScores

__all__ = ["DESCRIPTION", "write_description"]

DESCRIPTION = "hf"
"""The folder's name in the output ``checkpoint``."""


def write_description(model: nn.Module, tokenizer: Path, folder: Path) -> None:
    """Describe ``model``, a Hugging Face model or a PEFT wrapper around one, in ``folder``.

    Args:
        tokenizer: a folder with the tokenizer as it was before training set limits of its own.
    """
    inner = unwrapped(model)
    config = copy.deepcopy(inner.config)
    # FSDP 2 puts its name before that of a class it wraps.
    config.architectures = [type(inner).__name__.removeprefix("FSDP")]
    # Training runs without a cache; whoever generates with the result wants one.
    config.use_cache = True
    config.save_pretrained(folder)
    _tokenizer_for(inner, tokenizer).save_pretrained(folder)
    if inner.can_generate() and inner.generation_config is not None:
        # As it came: save_pretrained() refuses some that are in use.
        inner.generation_config.to_json_file(folder / GENERATION_CONFIG_NAME)
    adapters: dict[str, Any] = getattr(model, "peft_config", None) or {}
    for adapter in adapters.values():
        adapter.save_pretrained(folder)


def _tokenizer_for(model: PreTrainedModel, folder: Path) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if isinstance(model, LinearScores):
        # As in the configuration: whoever pads a batch for a sequence classifier uses both.
        set_padding_token(tokenizer)
    return tokenizer
