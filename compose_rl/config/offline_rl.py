"""Settings of offline preference optimisation: which loss, and its constants."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from compose_rl.config.schema import Config

__all__ = ["OfflineLossName", "OfflineRLSettings", "needs_rewards", "takes_unpaired"]

OfflineLossName = Literal["dpo", "ipo", "kto", "rpo", "rcdpo", "rebel"]

_REWARDED = frozenset({"rpo", "rcdpo", "rebel"})
_UNPAIRED = frozenset({"kto"})
_OWNER = {"label_smoothing": "dpo", "eta": "rpo", "desirable_weight": "kto", "undesirable_weight": "kto"}
"""The only loss that reads the setting."""


class OfflineRLSettings(Config):
    """What an offline loss needs beside log-probabilities; each loss says which of these it reads."""

    loss_type: OfflineLossName = "dpo"
    compat: bool = False
    """Compose RL's numbers where this project mends them: KTO's KL term and the SFT term's length."""
    beta: float = Field(0.1, gt=0, allow_inf_nan=False)
    """Strength of the pull towards the reference; for ``rebel`` it is 1/eta of the paper."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Probability that a preference is the wrong way round (``dpo`` only)."""
    sft_alpha: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Weight of the chosen answers' negative log-likelihood per answer token."""
    average_log_prob: bool = False
    """Use log-probabilities per answer token instead of their sums."""
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Divides the logits of policy and reference."""
    eta: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Scale of the rewards (``rpo`` only)."""
    desirable_weight: float = Field(1.0, ge=0, allow_inf_nan=False)
    """lambda_D (``kto`` only)."""
    undesirable_weight: float = Field(1.0, ge=0, allow_inf_nan=False)
    """lambda_U (``kto`` only)."""

    @field_validator("label_smoothing", "eta", "desirable_weight", "undesirable_weight")
    @classmethod
    def _has_a_reader(cls, value: float, info: ValidationInfo) -> float:
        loss_type, field = info.data.get("loss_type"), str(info.field_name)
        default = cls.model_fields[field].default
        if loss_type not in (None, _OWNER[field]) and value != default:
            raise ValueError(
                f"only loss_type='{_OWNER[field]}' reads it, and loss_type is '{loss_type}';"
                f" leave it at {default} or change loss_type"
            )
        return value

    @field_validator("desirable_weight", "undesirable_weight")
    @classmethod
    def _not_in_the_original(cls, value: float, info: ValidationInfo) -> float:
        if info.data.get("compat") and value != 1.0:
            raise ValueError("the original's kto has no weights, and compat is True; leave it at 1.0")
        return value

    @field_validator("sft_alpha")
    @classmethod
    def _failed_in_the_original(cls, value: float, info: ValidationInfo) -> float:
        if info.data.get("compat") and info.data.get("loss_type") == "kto" and value > 0:
            raise ValueError(
                "the original's kto fails with an SFT term, and compat is True; set compat to false"
            )
        return value


def needs_rewards(settings: OfflineRLSettings) -> bool:
    """Whether the data must have ``chosen_reward`` and ``rejected_reward``."""
    return settings.loss_type in _REWARDED


def takes_unpaired(settings: OfflineRLSettings) -> bool:
    """Whether the loss also works on single completions with a label (``unpaired_preference`` data)."""
    return settings.loss_type in _UNPAIRED and not settings.compat
