"""Models over packed batches. Each is the root that FSDP wraps: all of its parameters are used inside its
own forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from compose_rl.core.attention import layout_mask
from compose_rl.core.logprobs import linear_logprobs
from compose_rl.core.packing import Packed
from compose_rl.errors import UserError
from compose_rl.models.backbone import run_backbone, unwrapped, use_packed_attention

__all__ = ["PackedCausalLM", "PackedRewardModel", "RewardHead", "ValueHead"]


class _PackedModel(PreTrainedModel):
    """Common to both: the Hugging Face model is under `model`, so the state dict's names are its own behind
    `model.`.
    """

    config_class = PretrainedConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: PretrainedConfig, model: nn.Module) -> None:
        use_packed_attention(model)
        super().__init__(config)
        self.model = model
        blocks = unwrapped(model)._no_split_modules
        self._no_split_modules = list(blocks) if blocks else None

    def get_input_embeddings(self) -> nn.Module:
        return unwrapped(self.model).get_input_embeddings()

    def _init_weights(self, module: nn.Module) -> None:
        unwrapped(self.model)._init_weights(module)

    def _hidden(self, packed: Packed) -> Tensor:
        body = unwrapped(self.model).base_model
        return run_backbone(body, packed.input_ids, packed.position_ids, layout_mask(packed))


class PackedCausalLM(_PackedModel):
    """A causal language model whose forward gives the log-probabilities of the answers' tokens.

    State dict: `model.` + the names of the Hugging Face causal model.
    """

    def __init__(self, config: PretrainedConfig, model: nn.Module | None = None) -> None:
        """Wrap `model` (an AutoModelForCausalLM model, maybe inside a PEFT wrapper); a fresh one of `config`
        without it.

        Raises:
            UserError: the model cannot run packed (see `compose_rl.models.backbone.check_packable`), or its
                output layer is not a plain linear one.
        """
        super().__init__(config, model if model is not None else AutoModelForCausalLM.from_config(config))
        head = unwrapped(self.model).get_output_embeddings()
        if not isinstance(head, nn.Linear):
            raise UserError(
                f"the output layer is a {type(head).__name__}: packed training needs a plain linear layer"
                " (leave lm_head out of LoRA's target_modules and modules_to_save)"
            )

    def get_output_embeddings(self) -> nn.Module:
        return unwrapped(self.model).get_output_embeddings()

    def forward(self, packed: Packed, *, temperature: float = 1.0) -> Tensor:
        """Log-probabilities float32 [A] of `packed.targets`."""
        hidden = self._hidden(packed)[packed.target_index]
        head = self.get_output_embeddings()
        return linear_logprobs(hidden, head.weight, packed.targets, temperature=temperature, bias=head.bias)


@dataclass(frozen=True, kw_only=True)
class RewardHead:
    """The layer that scores an answer's last hidden state."""

    kind: Literal["linear", "value_head"] = "linear"
    """`linear` exports as AutoModelForSequenceClassification; `value_head` is Compose RL's."""
    n_labels: int = 1
    dropout: float = 0.0
    """In `value_head` only."""
    bias: float = 0.0
    """Subtracted from the scores."""


class ValueHead(nn.Module):
    """Compose RL's head: dropout, linear, tanh, dropout, linear, without biases; [*, H] -> [*, n_labels]."""

    def __init__(self, hidden_size: int, n_labels: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size, bias=False)
        self.out_proj = nn.Linear(hidden_size, n_labels, bias=False)
        self.dropout = nn.Dropout(dropout)

    def reset_parameters(self) -> None:
        """The output layer starts with a standard deviation of 1 / sqrt(H + 1) (Stiennon et al., arXiv
        2009.01325).
        """
        self.dense.reset_parameters()
        nn.init.normal_(self.out_proj.weight, std=(self.out_proj.in_features + 1) ** -0.5)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.out_proj(self.dropout(torch.tanh(self.dense(self.dropout(hidden)))))


class PackedRewardModel(_PackedModel):
    """A model body with a head on the last token of each answer.

    State dict: `model.` + the names of the Hugging Face body (AutoModel), and `score.weight` (linear) or
    `score.dense.weight` and `score.out_proj.weight` (value_head). For Llama and its kin the linear one has
    exactly the names of the AutoModelForSequenceClassification model.
    """

    def __init__(
        self, config: PretrainedConfig, model: nn.Module | None = None, head: RewardHead = RewardHead()
    ) -> None:
        """Wrap `model` (an AutoModel body, maybe inside a PEFT wrapper); a fresh one of `config` without it.

        Raises:
            UserError: the model cannot run packed.
        """
        super().__init__(config, model if model is not None else AutoModel.from_config(config))
        self.head_settings = head
        size: int = config.hidden_size
        if head.kind == "linear":
            self.score: Any = nn.Linear(size, head.n_labels, bias=False)
            nn.init.normal_(self.score.weight, std=getattr(config, "initializer_range", 0.02))
        else:
            self.score = ValueHead(size, head.n_labels, head.dropout)
            self.score.reset_parameters()

    def forward(self, packed: Packed) -> Tensor:
        """Scores float32 [answers], or [answers, n_labels] where there are several labels."""
        scores = self.score(self._hidden(packed)[packed.answer_ends]).float() - self.head_settings.bias
        return scores.squeeze(1) if self.head_settings.n_labels == 1 else scores
