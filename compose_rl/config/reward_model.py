"""Settings of reward models: loss, head, and what the head puts out; how one is told by its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from compose_rl.config.schema import Config

__all__ = [
    "VALUE_HEAD_TYPE",
    "HeadName",
    "RewardLossName",
    "RewardModelSettings",
    "is_pairwise",
    "model_class",
    "scores_per_text",
]

VALUE_HEAD_TYPE = "pairwise_rm"
"""``model_type`` in the config.json of a model with Compose RL's value head."""

RewardLossName = Literal["bt", "bt_eurus", "bce"]
HeadName = Literal["value_head", "linear"]

_PAIRWISE = frozenset({"bt", "bt_eurus"})
_VALUE_HEAD_ONLY = {"p_dropout": 0.0, "bias": 0.0, "return_lm_logits": False}
"""What a plain linear head (AutoModelForSequenceClassification) cannot express, and its neutral value."""


class RewardModelSettings(Config):
    """Loss and head of a reward model."""

    loss_type: RewardLossName = "bt"
    head: HeadName = "value_head"
    """``value_head``: dropout, linear, tanh, dropout, linear (Compose RL's).
    ``linear``: one matrix, exported as ``AutoModelForSequenceClassification``."""
    n_labels: int = Field(1, ge=1)
    """Scores per text."""
    p_dropout: float = Field(0.0, ge=0, lt=1)
    bias: float = Field(0.0, allow_inf_nan=False)
    """Subtracted from every score."""
    return_last: bool = True
    """Score at the last token only, instead of one per token."""
    return_lm_logits: bool = False
    """Also return the language model's logits."""
    min_threshold: float | None = Field(None, allow_inf_nan=False)
    max_threshold: float | None = Field(None, allow_inf_nan=False, validate_default=True)
    """Bounds of a score at inference."""

    @field_validator("n_labels")
    @classmethod
    def _one_score_per_answer(cls, value: int, info: ValidationInfo) -> int:
        loss_type = info.data.get("loss_type")
        if loss_type in _PAIRWISE and value != 1:
            raise ValueError(
                f"loss_type='{loss_type}' compares one score per answer; set it to 1 or use 'bce'"
            )
        return value

    @field_validator("p_dropout", "bias", "return_lm_logits")
    @classmethod
    def _expressible(cls, value: Any, info: ValidationInfo) -> Any:
        neutral = _VALUE_HEAD_ONLY[str(info.field_name)]
        if info.data.get("head") == "linear" and value != neutral:
            raise ValueError(f"only head='value_head' has it, and head is 'linear'; leave it at {neutral}")
        return value

    @field_validator("max_threshold")
    @classmethod
    def _ordered(cls, value: float | None, info: ValidationInfo) -> float | None:
        low = info.data.get("min_threshold")
        if (value is None) != (low is None):
            raise ValueError(f"min_threshold is {low}; set both thresholds or neither")
        if value is not None and low is not None and value <= low:
            raise ValueError(f"not above min_threshold={low}; set a larger one")
        return value


def is_pairwise(settings: RewardModelSettings) -> bool:
    """Whether the loss compares two answers (``preference`` data), or reads labels (``classifier`` data)."""
    return settings.loss_type in _PAIRWISE


def model_class(config: Mapping[str, Any]) -> str | None:
    """The class of reward model that a config.json describes, as an export calls it; None: it is none."""
    if config.get("model_type") == VALUE_HEAD_TYPE:
        return "reward_value_head"
    architecture = str((config.get("architectures") or [""])[0])
    return "sequence_classification" if architecture.endswith("ForSequenceClassification") else None


def scores_per_text(config: Mapping[str, Any]) -> int:
    """How many scores the reward model of this config.json gives a text."""
    if config.get("model_type") == VALUE_HEAD_TYPE:
        return int(config.get("n_labels", 1))
    # transformers writes labels in place of their number, and neither where it is its default of 2.
    return len(config["id2label"]) if config.get("id2label") else int(config.get("num_labels", 2))
