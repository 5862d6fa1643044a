"""Supervised fine-tuning: what it takes and what it makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from compose_rl.config.training import TrainingConfig, canonical_training, code_files
from compose_rl.stages.checks import check_data
from compose_rl.stages.spec import TRAINING_OUTPUTS, Slot, StageSpec
from compose_rl.store.manifest import Manifest

__all__ = ["SPEC", "SFTConfig"]


class SFTConfig(TrainingConfig):
    """LLM Foundry's training document over ``compose_rl/recipes/sft.yaml``."""

    recipe: ClassVar[str] = "sft"


def _check(config: SFTConfig, inputs: Mapping[str, Manifest]) -> None:
    check_data("sft", config, inputs, ("instruction", "messages"))


SPEC = StageSpec(
    name="sft",
    version=1,
    doc="Fine-tune a causal language model on instructions or conversations.",
    config=SFTConfig,
    inputs={
        "model": Slot(stages=("resolve", "export"), doc="the model to start from"),
        "data": Slot(stages=("tokenize",), doc="instruction or messages data"),
    },
    outputs=TRAINING_OUTPUTS,
    distributed=True,
    accelerated=True,
    check=_check,
    canonical=canonical_training,
    code=code_files,
)
