"""Compose RL's reward model as a Hugging Face model: a causal language model with a value head.

Importing this module registers the classes with transformers, so that ``AutoConfig`` and ``AutoModel`` load a
folder whose ``model_type`` is ``pairwise_rm``. Names of weights and of configuration keys are Compose RL's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from compose_rl.config.reward_model import VALUE_HEAD_TYPE
from compose_rl.models.heads import ValueHead

__all__ = ["AutoModelForCausalLMWithRM", "RewardModelConfig", "RewardOutput"]

_SHARED = ("hidden_size", "vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings")
"""Facts of the base configuration that are repeated at the top, where tools look for them."""


class RewardModelConfig(PretrainedConfig):
    """Configuration of a causal language model with a value head.

    Args:
        base_config: the language model's configuration, or its dictionary with ``model_type``.
        n_labels: scores per token.
        p_dropout: dropout before both layers of the head.
        bias: subtracted from every score.
        return_logits: also return the language model's logits.
    """

    model_type = VALUE_HEAD_TYPE
    is_composition = True
    has_no_defaults_at_init = True

    def __init__(
        self,
        base_config: PretrainedConfig | dict[str, Any] | None = None,
        n_labels: int = 1,
        p_dropout: float = 0.0,
        bias: float = 0.0,
        return_logits: bool = False,
        **kwargs: Any,
    ) -> None:
        if base_config is None:
            raise ValueError("base_config is missing; give the language model's configuration")
        if isinstance(base_config, dict):
            base_config = AutoConfig.for_model(**base_config)
        shared = {name: getattr(base_config, name) for name in _SHARED if hasattr(base_config, name)}
        super().__init__(**(shared | kwargs))
        self.base_config = base_config
        self.n_labels = n_labels
        self.p_dropout = p_dropout
        self.bias = bias
        self.return_logits = return_logits

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> RewardModelConfig:
        """From its own dictionary, or from that of a language model, which then is the base.

        PEFT reads the configuration of the model under an adapter by the class of the whole.
        """
        own = config_dict if "base_config" in config_dict else {"base_config": config_dict}
        return super().from_dict(own, **kwargs)


@dataclass
class RewardOutput(ModelOutput):
    """What the model returns."""

    scores: torch.Tensor | None = None
    """[B, T], or [B, T, n_labels] for several labels: one score per token."""
    logits: torch.Tensor | None = None
    """[B, T, V], where ``return_logits`` is set."""


class AutoModelForCausalLMWithRM(PreTrainedModel):
    """A causal language model whose last hidden states a value head scores."""

    config_class = RewardModelConfig
    base_model_prefix = "lm_backbone"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn_2 = True

    def __init__(self, config: RewardModelConfig, lm_backbone: PreTrainedModel | None = None) -> None:
        """Put a fresh head on ``lm_backbone``, or on a fresh language model."""
        super().__init__(config)
        self.lm_backbone = lm_backbone or AutoModelForCausalLM.from_config(config.base_config)
        self.value_head = ValueHead(config.hidden_size, config.n_labels, config.p_dropout)
        tied = getattr(self.lm_backbone, "_tied_weights_keys", None) or ()
        self._tied_weights_keys = [f"lm_backbone.{name}" for name in tied]

    def _init_weights(self, module: torch.nn.Module) -> None:
        if isinstance(module, ValueHead):
            module.reset_parameters()
        else:
            self.lm_backbone._init_weights(module)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.lm_backbone.get_input_embeddings()

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.lm_backbone.get_output_embeddings()

    def set_input_embeddings(self, value: torch.nn.Module) -> None:
        self.lm_backbone.set_input_embeddings(value)

    def set_output_embeddings(self, value: torch.nn.Module) -> None:
        self.lm_backbone.set_output_embeddings(value)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> torch.nn.Module:
        embeddings = self.lm_backbone.resize_token_embeddings(*args, **kwargs)
        self.config.base_config = self.lm_backbone.config
        self.config.vocab_size = self.lm_backbone.config.vocab_size
        return embeddings

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **_: Any,
    ) -> RewardOutput:
        """Score every position of a padded batch; padding is on the right (or ``position_ids`` are given)."""
        hidden = self.lm_backbone.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=False,
            return_dict=True,
        ).last_hidden_state
        scores = self.value_head(hidden) - self.config.bias
        logits = self.lm_backbone.get_output_embeddings()(hidden) if self.config.return_logits else None
        return RewardOutput(scores=scores.squeeze(-1), logits=logits)

    def score(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The score at each row's last real token: [B], or [B, n_labels] for several labels."""
        scores = self(input_ids=input_ids, attention_mask=attention_mask).scores
        positions = torch.arange(input_ids.size(1), device=input_ids.device)
        last = (attention_mask * positions).argmax(1)
        return scores[torch.arange(scores.size(0), device=scores.device), last]


AutoConfig.register(RewardModelConfig.model_type, RewardModelConfig)
AutoModel.register(RewardModelConfig, AutoModelForCausalLMWithRM)
