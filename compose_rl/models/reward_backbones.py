"""How the model under each kind of reward head is loaded: what LLM Foundry takes for an auto class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from llmfoundry.models.hf.hf_fsdp import hf_get_hidden_layers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from compose_rl.config.reward_model import RewardModelSettings, is_pairwise
from compose_rl.errors import UserError
from compose_rl.models.backbone import unwrapped
from compose_rl.models.hf_reward import AutoModelForCausalLMWithRM, RewardModelConfig
from compose_rl.models.padding import set_padding_token
from compose_rl.models.scoring import (
    EndTokenScores,
    LinearScores,
    ScoringModel,
    ValueHeadScores,
    make_scoring,
)

__all__ = ["BACKBONES", "Backbone", "EndTokenBackbone", "prepare_for_fsdp"]


@dataclass(frozen=True)
class Backbone:
    """Loads a model with its head: what LLM Foundry calls a model class."""

    settings: RewardModelSettings
    tokenizer: PreTrainedTokenizerBase
    packed: bool
    mixin: ClassVar[type[ScoringModel]]
    head: ClassVar[str]
    """The module that LoRA leaves alone and that is trained as a whole."""

    def from_pretrained(self, path: str, *, config: PretrainedConfig, **keys: Any) -> PreTrainedModel:
        """The weights in ``path``, with a fresh head where there is none."""
        raise NotImplementedError

    def from_config(self, config: PretrainedConfig, **keys: Any) -> PreTrainedModel:
        """Fresh weights, or on the meta device none."""
        raise NotImplementedError

    def finish(self, model: PreTrainedModel) -> PreTrainedModel:
        """Make a loaded model score answers."""
        make_scoring(model, self.mixin, packed=self.packed)
        return model

    def with_head_trained(self, peft_config: dict[str, Any]) -> dict[str, Any]:
        """LoRA's configuration, with the head among the modules that are trained and saved whole."""
        saved = list(peft_config.get("modules_to_save") or [])
        return peft_config | {"modules_to_save": sorted({*saved, self.head})}


class LinearBackbone(Backbone):
    """A sequence classifier of transformers."""

    mixin = LinearScores
    head = "score"

    def _configured(self, config: PretrainedConfig) -> PretrainedConfig:
        config.num_labels = self.settings.n_labels
        config.pad_token_id = set_padding_token(self.tokenizer)
        # Tells servers whether to put the score through a sigmoid: a reward is a number, a label is not.
        config.problem_type = "regression" if is_pairwise(self.settings) else "multi_label_classification"
        return config

    def from_pretrained(self, path: str, *, config: PretrainedConfig, **keys: Any) -> PreTrainedModel:
        return AutoModelForSequenceClassification.from_pretrained(
            path, config=self._configured(config), **keys
        )

    def from_config(self, config: PretrainedConfig, **keys: Any) -> PreTrainedModel:
        return AutoModelForSequenceClassification.from_config(self._configured(config), **keys)


class ValueHeadBackbone(Backbone):
    """Compose RL's reward model."""

    mixin = ValueHeadScores
    head = "value_head"

    def _configured(self, base: PretrainedConfig) -> RewardModelConfig:
        return RewardModelConfig(
            base,
            n_labels=self.settings.n_labels,
            p_dropout=self.settings.p_dropout,
            bias=self.settings.bias,
            return_logits=self.settings.return_lm_logits,
        )

    def from_pretrained(self, path: str, *, config: PretrainedConfig, **keys: Any) -> PreTrainedModel:
        if isinstance(config, RewardModelConfig):
            return AutoModelForCausalLMWithRM.from_pretrained(path, config=config)
        language_model = AutoModelForCausalLM.from_pretrained(path, config=config, **keys)
        return AutoModelForCausalLMWithRM(self._configured(language_model.config), language_model)

    def from_config(self, config: PretrainedConfig, **keys: Any) -> PreTrainedModel:
        own = config if isinstance(config, RewardModelConfig) else self._configured(config)
        return AutoModelForCausalLMWithRM(own)

    def finish(self, model: PreTrainedModel) -> PreTrainedModel:
        output = model.get_output_embeddings()
        if output.weight is not model.get_input_embeddings().weight:
            # No score depends on it, and DDP waits for the gradient of everything that asks for one.
            output.requires_grad_(False)
        return super().finish(model)


@dataclass(frozen=True)
class EndTokenBackbone(Backbone):
    """A causal language model, whose output layer starts anew: 0 for the end token, ``FILL`` for the others.

    Only a model that comes from elsewhere is changed so: ``config.score_token_id`` marks one that is a reward
    model already. Training state is loaded later, over what is set here. An output layer that is tied to the
    input embeddings gets weights of its own.
    """

    reset: bool = True
    mixin = EndTokenScores
    head = "lm_head"
    FILL: ClassVar[float] = -100.0

    def from_pretrained(self, path: str, *, config: PretrainedConfig, **keys: Any) -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(path, config=config, **keys)

    def from_config(self, config: PretrainedConfig, **keys: Any) -> PreTrainedModel:
        return AutoModelForCausalLM.from_config(config, **keys)

    def finish(self, model: PreTrainedModel) -> PreTrainedModel:
        if getattr(model.config, "score_token_id", None) is None:
            self._mark(model)
        return super().finish(model)

    def _mark(self, model: PreTrainedModel) -> None:
        end = self.tokenizer.eos_token_id
        if end is None:
            raise UserError("tokenizer: it has no end token, whose logit is the score; give it an eos_token")
        old = model.get_output_embeddings()
        model.config.score_token_id = end
        if self.reset or model.config.tie_word_embeddings:
            weight = old.weight.detach().clone()
            if self.reset:
                weight.fill_(self.FILL)[end] = 0.0
            old.weight = nn.Parameter(weight)
            model.config.tie_word_embeddings = False


BACKBONES: dict[str, type[Backbone]] = {"linear": LinearBackbone, "value_head": ValueHeadBackbone}
"""By the name of the head."""


def prepare_for_fsdp(model: nn.Module) -> None:
    """Tell FSDP and activation checkpointing to wrap each block, and how to fill what has no weights yet."""
    inner = unwrapped(model)
    body = inner.scoring_body()
    block = type(hf_get_hidden_layers(body)[0])
    if inner.config.tie_word_embeddings:
        body._fsdp_wrap = False
        inner.get_input_embeddings()._fsdp_wrap = False
    model.fsdp_wrap_fn = lambda module: isinstance(module, block)
    model.activation_checkpointing_fn = lambda module: isinstance(module, block)

    def fill(module: nn.Module) -> None:
        inner._init_weights(module)
        if type(module).__name__.endswith("RMSNorm"):
            torch.nn.init.ones_(module.weight)

    model.param_init_fn = fill
