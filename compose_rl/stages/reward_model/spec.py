"""Reward models: what the stage takes and what it makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import model_validator

from compose_rl.config.reward_model import RewardModelSettings, is_pairwise
from compose_rl.config.training import HFModel, TrainingConfig, canonical_training, code_files
from compose_rl.stages.checks import check_data
from compose_rl.stages.spec import TRAINING_OUTPUTS, Slot, StageSpec
from compose_rl.store.manifest import Manifest

__all__ = ["LOADERS", "MODEL_CLASSES", "SPEC", "RewardModelConfig"]

MODEL_CLASSES = {"linear": "sequence_classification", "value_head": "reward_value_head"}
"""What becomes of each head in the export."""
LOADERS = {"preference": "pairwise_preference", "classifier": "finegrained_preference"}


class RewardModel(HFModel, RewardModelSettings):
    """``model:`` of ``hf_pairwise_rm`` (``bt``, ``bt_eurus``) and ``hf_classifier_rm`` (``bce``)."""

    name: Literal["hf_pairwise_rm", "hf_classifier_rm"]
    packed: bool = True
    """False: padded rows, for architectures that cannot run packed."""

    @model_validator(mode="after")
    def _loss_of_model(self) -> RewardModel:
        fitting = "hf_pairwise_rm" if is_pairwise(self) else "hf_classifier_rm"
        if self.name != fitting:
            raise ValueError(f"name='{self.name}' has no loss_type='{self.loss_type}'; set name: {fitting}")
        if not self.return_last:
            raise ValueError("return_last=False: losses are on the score of the last token; set it to true")
        return self


class RewardModelConfig(TrainingConfig):
    """LLM Foundry's training document over ``compose_rl/recipes/reward_model.yaml``."""

    recipe: ClassVar[str] = "reward_model"
    model: RewardModel


def _check(config: RewardModelConfig, inputs: Mapping[str, Manifest]) -> None:
    check_data(
        "reward_model", config, inputs, ("preference",) if is_pairwise(config.model) else ("classifier",)
    )


SPEC = StageSpec(
    name="reward_model",
    version=1,
    doc="Train a reward model on preference pairs or on labelled texts.",
    config=RewardModelConfig,
    inputs={
        "model": Slot(stages=("resolve", "export"), doc="the model to start from"),
        "data": Slot(stages=("tokenize",), doc="preference or classifier data"),
    },
    outputs=TRAINING_OUTPUTS,
    distributed=True,
    accelerated=True,
    check=_check,
    canonical=canonical_training,
    code=code_files,
)
