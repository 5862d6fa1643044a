"""Which Hugging Face models run packed, and how they are told to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from compose_rl.core.attention import PACKED_ATTENTION, is_layout, layout_from_positions, refuse_unsupported
from compose_rl.errors import UserError

__all__ = ["PACKED_MODEL_TYPES", "check_packable", "run_backbone", "unwrapped", "use_packed_attention"]

PACKED_MODEL_TYPES = frozenset({"gpt_neox", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3"})
"""`model_type`s whose attention comes from transformers' registry with nothing beside it, each tested
against its padded path.
"""

_DROPOUTS = ("attention_dropout", "hidden_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop")


def check_packable(config: PretrainedConfig) -> None:
    """Check that a model of this config can run packed.

    Raises:
        UserError: an architecture that is not in `PACKED_MODEL_TYPES`, a sliding window, a logit cap, or
            dropout, which would treat a shared prompt differently from separate copies.
    """
    if config.model_type not in PACKED_MODEL_TYPES:
        raise UserError(
            f"model_type is {config.model_type}: packed training supports"
            f" {', '.join(sorted(PACKED_MODEL_TYPES))}; use the padded path (packed: false)"
        )
    for name in _DROPOUTS:
        if getattr(config, name, 0.0):
            raise UserError(f"{name} is {getattr(config, name)}: packed training needs {name}: 0")
    window = (
        config.sliding_window if getattr(config, "use_sliding_window", True) and _windowed(config) else None
    )
    refuse_unsupported(0.0, window, getattr(config, "attn_logit_softcapping", None))


def _windowed(config: PretrainedConfig) -> bool:
    """Whether any layer has the sliding window: `layer_types` names each layer's attention where a config
    has it.
    """
    if getattr(config, "sliding_window", None) is None:
        return False
    layer_types = getattr(config, "layer_types", None)
    return layer_types is None or "sliding_attention" in layer_types


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside a PEFT wrapper, whose layers hold the adapters; or the model itself."""
    peft_config: dict[str, Any] | None = getattr(model, "peft_config", None)
    if isinstance(model, PreTrainedModel):
        return model
    for adapter in (peft_config or {}).values():
        if adapter.is_prompt_learning:
            raise UserError(
                f"peft_type is {adapter.peft_type}: packed training supports adapters in layers, such as LORA"
            )
    return model.get_base_model()  # type: ignore[operator]


def use_packed_attention(model: nn.Module) -> None:
    """Make a causal model or its body attend within samples only.

    From then on a training forward with `position_ids` [B, T] attends within the samples, which start where
    they are 0, and skips padding (`attention_mask` 0). Generation with a cache is as before.

    Raises:
        UserError: see `check_packable`.
    """
    inner = unwrapped(model)
    check_packable(inner.config)
    inner.config._attn_implementation = PACKED_ATTENTION
    inner.base_model.config._attn_implementation = PACKED_ATTENTION
    inner.base_model.register_forward_pre_hook(_layout_from_call, with_kwargs=True)


def _layout_from_call(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    positions: Tensor | None = kwargs.get("position_ids")
    mask: Tensor | None = kwargs.get("attention_mask")
    # Generation brings a cache, or, before its first token, asks for one.
    generates = kwargs.get("past_key_values") is not None or kwargs.get("use_cache")
    if positions is None or generates:
        return None
    if is_layout(mask, positions.size(-1)):
        return None
    return args, {**kwargs, "attention_mask": layout_from_positions(positions, mask), "use_cache": False}


def run_backbone(body: nn.Module, input_ids: Tensor, position_ids: Tensor, layout: Tensor) -> Tensor:
    """Last hidden states [T, H] of a packed stream [T] under its layout [1, 1, 2, T]."""
    out = body(
        input_ids=input_ids[None], position_ids=position_ids[None], attention_mask=layout, use_cache=False
    )
    hidden: torch.Tensor = out[0]
    return hidden[0]
