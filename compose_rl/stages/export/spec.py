"""Export: from a training stage's checkpoint to a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from compose_rl.config.schema import Config
from compose_rl.errors import UserError
from compose_rl.stages.spec import Slot, StageSpec
from compose_rl.store.manifest import Manifest

__all__ = ["SPEC", "ExportConfig"]

_CLASSES = ("causal_lm", "sequence_classification", "reward_value_head")


class ExportConfig(Config):
    """How to write the model."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights in the folder; training keeps them in float32."""
    merge_adapter: bool = True
    """Add LoRA's weights to the model's own; false: write the adapter alone."""
    max_shard_size: str = "5GB"
    """A larger model is written in several files."""


def _check(config: ExportConfig, inputs: Mapping[str, Manifest]) -> None:
    checkpoint = inputs["checkpoint"]
    given = checkpoint.info.get("model_class")
    if given not in _CLASSES:
        raise UserError(
            f"export: input 'checkpoint' ({checkpoint.uri}) says model_class={given!r}, and export knows"
            f" {', '.join(_CLASSES)}; run stage '{checkpoint.stage}' again"
        )
    if not config.merge_adapter and not checkpoint.info.get("peft"):
        raise UserError(
            f"export: merge_adapter=False, but no adapter was trained ({checkpoint.uri}); take it out"
        )


SPEC = StageSpec(
    name="export",
    version=1,
    doc="Turn a checkpoint into a Hugging Face folder, read it back and compare.",
    config=ExportConfig,
    inputs={
        "checkpoint": Slot(stages=("sft", "reward_model", "offline_rl", "online_rl"), doc="a trained model")
    },
    outputs={"model": "a Hugging Face folder: safetensors, configuration, tokenizer"},
    check=_check,
)
