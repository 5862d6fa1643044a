"""Offline preference optimisation: what it takes and what it makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from compose_rl.config.offline_rl import OfflineRLSettings, needs_rewards, takes_unpaired
from compose_rl.config.training import HFModel, TrainingConfig, canonical_training, code_files
from compose_rl.errors import UserError
from compose_rl.stages.checks import check_data
from compose_rl.stages.spec import TRAINING_OUTPUTS, Slot, StageSpec
from compose_rl.store.manifest import Manifest

__all__ = ["SPEC", "OfflineRLConfig", "needs_mismatched"]


class OfflineModel(HFModel, OfflineRLSettings):
    """``model:`` of ``hf_pairwise_offline_lm``."""

    packed: bool = True
    """False: padded rows, for architectures that cannot run packed."""


class OfflineRLConfig(TrainingConfig):
    """LLM Foundry's training document over ``compose_rl/recipes/offline_rl.yaml``."""

    recipe: ClassVar[str] = "offline_rl"
    model: OfflineModel


def needs_mismatched(settings: OfflineRLSettings) -> bool:
    """Whether the loss needs prompts with other prompts' answers."""
    return settings.loss_type == "kto" and not settings.compat


def _check(config: OfflineRLConfig, inputs: Mapping[str, Manifest]) -> None:
    settings = config.model
    paired = ("preference",)
    check_data(
        "offline_rl",
        config,
        inputs,
        (*paired, "unpaired_preference") if takes_unpaired(settings) else paired,
    )
    if needs_rewards(settings) and not inputs["data"].info.get("has_rewards"):
        raise UserError(
            f"offline_rl: loss_type='{settings.loss_type}' needs the columns 'chosen_reward' and"
            f" 'rejected_reward', and the data ({inputs['data'].uri}) has none; tokenize data that has them,"
            " or choose dpo, ipo or kto"
        )
    if not config.model.pretrained:
        raise UserError(
            "offline_rl: model.pretrained=False: a policy of random weights has no reference; set it to true"
        )
    if "reference" in inputs:
        _check_reference(config, inputs)


def _check_reference(config: OfflineRLConfig, inputs: Mapping[str, Manifest]) -> None:
    """The reference log-probs are of this model on this data, under these settings."""
    reference = inputs["reference"]
    for slot in ("model", "data"):
        if reference.inputs[slot].key != inputs[slot].key:
            raise UserError(
                f"offline_rl: input 'reference' ({reference.uri}) was computed with another '{slot}'"
                f" ({reference.inputs[slot].uri}); run reference_logprobs with the '{slot}' given here"
            )
    if reference.config["temperature"] != config.model.temperature:
        raise UserError(
            f"offline_rl: model.temperature={config.model.temperature} but the reference log-probs are at"
            f" {reference.config['temperature']}; run reference_logprobs with the same temperature"
        )
    if not needs_mismatched(config.model):
        return
    if not reference.config["mismatched"]:
        raise UserError(
            "offline_rl: loss_type='kto' needs the reference of mismatched answers;"
            " run reference_logprobs with mismatched: true"
        )
    if config.max_seq_len not in (None, inputs["data"].info["max_length"]):
        raise UserError(
            f"offline_rl: max_seq_len={config.max_seq_len} would cut mismatched answers elsewhere than the"
            " reference did; leave it out"
        )


SPEC = StageSpec(
    name="offline_rl",
    version=1,
    doc="Optimise a policy on preferences: dpo, ipo, kto, rpo, rcdpo or rebel.",
    config=OfflineRLConfig,
    inputs={
        "model": Slot(stages=("resolve", "export"), doc="the policy to start from, and the reference"),
        "data": Slot(stages=("tokenize",), doc="preference data, or unpaired_preference data for kto"),
        "reference": Slot(
            stages=("reference_logprobs",),
            doc="log-probs of the reference; computed in training where it is not given",
            optional=True,
        ),
    },
    outputs=TRAINING_OUTPUTS,
    distributed=True,
    accelerated=True,
    check=_check,
    canonical=canonical_training,
    code=code_files,
)
