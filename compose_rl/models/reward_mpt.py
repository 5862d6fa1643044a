"""Reward models on LLM Foundry's MPT, over padded rows: it has attention of its own and cannot run packed."""

from __future__ import annotations

from typing import Any

import torch
from llmfoundry.models.mpt import ComposerMPTCausalLM, MPTConfig, MPTForCausalLM, MPTModel
from llmfoundry.utils.builders import build_metric
from torchmetrics import Metric
from transformers import PreTrainedTokenizerBase

from compose_rl.errors import UserError
from compose_rl.models.heads import ValueHead
from compose_rl.models.reward import RewardModel
from compose_rl.models.scoring import ScoringModel

__all__ = ["ComposerMPTPairwiseRewardModel", "MPTForRewards"]


class MPTForRewards(ScoringModel, MPTForCausalLM):
    """MPT with a value head; the configuration's ``n_labels``, ``p_dropout`` and ``bias`` shape it."""

    scores_packed = False

    def __init__(self, config: MPTConfig) -> None:
        super().__init__(config)
        self.value_head = ValueHead(config.d_model, config.n_labels, config.p_dropout)
        if self.lm_head is not None:
            # No score depends on it, and DDP waits for the gradient of everything that asks for one.
            self.lm_head.requires_grad_(False)

    def scoring_body(self) -> MPTModel:
        return self.transformer

    def score_hidden(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.value_head(hidden) - self.config.bias


class ComposerMPTPairwiseRewardModel(RewardModel, ComposerMPTCausalLM):
    """``mpt_pairwise_rm``: learns from preference pairs."""

    loss_types = ("bt", "bt_eurus")
    default_eval_metrics = ("pairwise_rm_accuracy", "pairwise_rm_margin", "pairwise_rm_calibration_error")

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        additional_train_metrics: list[str] | None = None,
        additional_eval_metrics: list[str] | None = None,
        **keys: Any,
    ) -> None:
        """Keys: those of :class:`RewardModelSettings` and those of LLM Foundry's ``mpt_causal_lm``.

        Raises:
            UserError: an impossible setting.
        """
        self.settings = self.parse_settings(keys)
        if self.settings.head != "value_head":
            raise UserError("model: head='linear': MPT has no sequence classifier; set head: value_head")
        keys |= keys.pop("config_overrides")
        keys |= self.settings.model_dump(include={"n_labels", "p_dropout", "bias"})
        # Its language-modelling loss is not used, and the fused one exists on GPUs only.
        keys["loss_fn"] = "torch_crossentropy"
        super().__init__(tokenizer=tokenizer, **keys)
        # In place of those of a language model.
        self.train_metrics = self._named_metrics(additional_train_metrics or [])
        self.val_metrics = self._named_metrics([*self.default_eval_metrics, *(additional_eval_metrics or [])])

    def _named_metrics(self, names: list[str]) -> dict[str, Metric]:
        return self._get_metric_dict([build_metric(name, {}) for name in names])

    @property
    def model_class(self) -> type[MPTForRewards]:
        return MPTForRewards
