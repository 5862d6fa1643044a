"""Reward models for LLM Foundry's registry, with the YAML keys of Compose RL."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from llmfoundry.models.hf.hf_base import BaseHuggingFaceModel
from transformers import PreTrainedTokenizerBase

from compose_rl.config.reward_model import RewardModelSettings, is_pairwise
from compose_rl.config.schema import parse
from compose_rl.core.losses import REWARD_LOSSES, LabelledScores, PairScores
from compose_rl.core.packing import pack
from compose_rl.errors import UserError
from compose_rl.models.reward_backbones import BACKBONES, Backbone, EndTokenBackbone, prepare_for_fsdp

if TYPE_CHECKING:
    from torchmetrics import Metric
    from transformers import PreTrainedModel

__all__ = [
    "ComposerHFCausalClassifierRewardModel",
    "ComposerHFClassifierRewardModel",
    "ComposerHFPairwiseRewardModel",
    "RewardModel",
]


class RewardModel:
    """Mixed into a ComposerModel: batches in, scores and losses out, whatever the architecture."""

    loss_types: ClassVar[tuple[str, ...]]
    settings: RewardModelSettings

    @classmethod
    def parse_settings(cls, keys: dict[str, Any]) -> RewardModelSettings:
        """Take the reward model's own keys out of ``keys``.

        Raises:
            UserError: an impossible value, or a loss that belongs to another model.
        """
        # Compose RL's YAML has some of them under config_overrides.
        overrides = keys["config_overrides"] = dict(keys.get("config_overrides") or {})
        if "return_logits" in overrides:
            overrides["return_lm_logits"] = overrides.pop("return_logits")
        known = RewardModelSettings.model_fields
        own = {name: part.pop(name) for part in (overrides, keys) for name in list(part) if name in known}
        own.setdefault("loss_type", cls.loss_types[0])
        settings = parse(RewardModelSettings, own, "model")
        if settings.loss_type not in cls.loss_types:
            raise UserError(
                f"model: loss_type={settings.loss_type!r}: this model has {', '.join(cls.loss_types)}"
            )
        if not settings.return_last:
            raise UserError(
                "model: return_last=False: losses are on the score of the last token; set it to true"
            )
        return settings

    def forward(self, batch: MutableMapping[str, Any]) -> torch.Tensor:
        """Scores of the batch's answers: [answers] or [answers, n_labels].

        With ``is_inference`` in the batch: of every position of its padded ``input_ids`` [B, T], and within
        the thresholds.
        """
        if batch.get("is_inference", False):
            return self._clamped(self._scores_everywhere(batch["input_ids"], batch["attention_mask"]))
        return self.model(packed=pack(batch["tokens"], batch["lengths"]))

    def _scores_everywhere(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        model = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        hidden = model.scoring_body()(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False, return_dict=True
        ).last_hidden_state
        scores = model.score_hidden(hidden.flatten(0, 1)).float().unflatten(0, hidden.shape[:2])
        return scores.squeeze(-1)

    def _clamped(self, scores: torch.Tensor) -> torch.Tensor:
        if self.settings.min_threshold is None:
            return scores
        return scores.clamp(self.settings.min_threshold, self.settings.max_threshold)

    def eval_forward(
        self, batch: MutableMapping[str, Any], outputs: torch.Tensor | None = None
    ) -> torch.Tensor:
        return outputs if outputs is not None else self.forward(batch)

    def loss(self, outputs: torch.Tensor, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """``total`` is the mean over pairs (or texts); the rest is logged beside it."""
        if is_pairwise(self.settings):
            inputs: Any = PairScores(chosen=outputs[0::2], rejected=outputs[1::2])
        else:
            inputs = LabelledScores(scores=outputs, labels=batch["label"])
        result = REWARD_LOSSES[self.settings.loss_type](inputs)
        return {"total": result.loss, **result.metrics}

    def update_metric(self, batch: Any, outputs: torch.Tensor, metric: Metric) -> None:
        # Rows of weight 0 only fill up a microbatch.
        rows = batch["weight"] > 0
        if is_pairwise(self.settings):
            metric.update(outputs.detach().unflatten(0, (-1, 2))[rows].flatten())
        else:
            metric.update(outputs.detach()[rows], batch["label"][rows])


class _HFRewardModel(RewardModel, BaseHuggingFaceModel):
    """A reward model on a Hugging Face causal language model."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        pretrained_model_name_or_path: str,
        packed: bool = True,
        **keys: Any,
    ) -> None:
        """Keys: those of :class:`RewardModelSettings` and those of LLM Foundry's ``hf_causal_lm``.

        Args:
            packed: False runs every answer as a padded row with its own copy of the prompt: slower, for
                architectures that cannot run packed.

        Raises:
            UserError: an impossible setting, or an architecture that cannot run as asked.
        """
        self.settings = self.parse_settings(keys)
        self._backbone = self.build_backbone(tokenizer, packed, keys)
        if packed:
            # The packed attention takes the place of any other.
            keys.pop("use_flash_attention_2", None)
            keys.pop("attn_implementation", None)
        if keys.get("peft_config"):
            keys["peft_config"] = self._backbone.with_head_trained(keys["peft_config"])
        super().__init__(pretrained_model_name_or_path, tokenizer=tokenizer, shift_labels=True, **keys)

    def build_backbone(
        self, tokenizer: PreTrainedTokenizerBase, packed: bool, keys: dict[str, Any]
    ) -> Backbone:
        """What loads the model; takes the keys that it alone needs out of ``keys``."""
        return BACKBONES[self.settings.head](self.settings, tokenizer, packed)

    def build_inner_model(self, **kwargs: Any) -> PreTrainedModel:
        return super().build_inner_model(**kwargs, model_cls=self._backbone)

    def transform_model(self, model: PreTrainedModel) -> PreTrainedModel:
        return self._backbone.finish(model)

    @staticmethod
    def prepare_inner_model(model: Any, init_device: str | None = None) -> None:
        prepare_for_fsdp(model)


class ComposerHFPairwiseRewardModel(_HFRewardModel):
    """``hf_pairwise_rm``: learns from preference pairs."""

    loss_types = ("bt", "bt_eurus")
    default_eval_metrics = ("pairwise_rm_accuracy", "pairwise_rm_margin", "pairwise_rm_calibration_error")


class ComposerHFClassifierRewardModel(_HFRewardModel):
    """``hf_classifier_rm``: learns from labelled texts."""

    loss_types = ("bce",)
    default_eval_metrics = ("classifier_accuracy", "classifier_calibration_error")


class ComposerHFCausalClassifierRewardModel(_HFRewardModel):
    """``hf_causal_classifier_rm``: the logit of the end-of-sequence token is the score."""

    loss_types = ("bce",)
    default_eval_metrics = ("classifier_accuracy", "classifier_calibration_error")

    def build_backbone(
        self, tokenizer: PreTrainedTokenizerBase, packed: bool, keys: dict[str, Any]
    ) -> Backbone:
        reset = keys.pop("should_reset_output_embed", True)
        return EndTokenBackbone(self.settings, tokenizer, packed, reset)
