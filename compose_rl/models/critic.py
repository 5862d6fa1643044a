"""Critics: what gives the value of the state before each token of an answer.

A *shared* critic is a linear layer on the policy's last hidden states (``critic_head``). A *separate* one is
a model of its own (``critic``): the body and the head of a reward model, or a copy of the policy's body with
a fresh head. Both hang on the policy's Hugging Face model, so that one FSDP root and one state hold the
whole, and whatever leaves for others (export, ``hf_checkpointer``, engines) leaves them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from compose_rl.core.attention import layout_mask
from compose_rl.core.packing import Packed
from compose_rl.core.padded import pad_answers
from compose_rl.errors import UserError
from compose_rl.models.backbone import run_backbone, use_packed_attention
from compose_rl.models.hf_reward import AutoModelForCausalLMWithRM, RewardModelConfig

__all__ = [
    "HEAD",
    "MODEL",
    "CriticHead",
    "SeparateCritic",
    "is_critic",
    "is_critic_head",
    "load_critic",
    "without_critic",
]

HEAD, MODEL = "critic_head", "critic"
"""Names of a shared critic and of a separate one in the policy's model."""


def is_critic(name: str) -> bool:
    """Whether a weight, by its name in the model, is a critic's."""
    return not {HEAD, MODEL}.isdisjoint(name.split("."))


def is_critic_head(name: str) -> bool:
    """Whether a weight is of a critic's head, which is trained whole also where all else is under LoRA."""
    return HEAD in name.split(".") or f".{MODEL}.head." in f".{name}"


def without_critic(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The policy's weights alone."""
    return {name: tensor for name, tensor in weights.items() if not is_critic(name)}


class CriticHead(nn.Linear):
    """Hidden states [N, H] to values float32 [N]. Weights start at 0: all states are worth the same."""

    def __init__(self, hidden_size: int, dropout: float = 0.0) -> None:
        super().__init__(hidden_size, 1)
        self.dropout = nn.Dropout(dropout)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def param_init_fn(self, module: nn.Module) -> None:
        """Composer calls it where the model was made without weights, in place of the whole model's."""
        self.reset_parameters()

    def forward(self, hidden: Tensor) -> Tensor:
        # Returns are regressed in float32 whatever the trunk runs in.
        with torch.autocast(hidden.device.type, enabled=False):
            dtype = torch.promote_types(hidden.dtype, torch.float32)
            values = nn.functional.linear(
                self.dropout(hidden).to(dtype), self.weight.to(dtype), self.bias.to(dtype)
            )
        return values.squeeze(-1).float()


class _RewardHead(nn.Module):
    """A reward model's head, whose scores are the first values."""

    def __init__(self, head: nn.Module, bias: float, dropout: float) -> None:
        super().__init__()
        self.head, self.bias, self.dropout = head, bias, nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.head(self.dropout(hidden)).squeeze(-1).float() - self.bias


class SeparateCritic(nn.Module):
    """A model of its own: ``forward(packed)`` gives values float32 [A], before each target token."""

    def __init__(self, body: PreTrainedModel, head: nn.Module, *, packed: bool) -> None:
        super().__init__()
        self.body, self.head, self.runs_packed = body, head, packed
        if packed:
            use_packed_attention(body)

    def forward(self, packed: Packed) -> Tensor:
        if self.runs_packed:
            stream = run_backbone(self.body, packed.input_ids, packed.position_ids, layout_mask(packed))
            return self.head(stream[packed.target_index])
        padded = pad_answers(packed, pad_token=0)
        hidden = self.body(
            input_ids=padded.input_ids,
            attention_mask=padded.attention_mask.bool(),
            use_cache=False,
            return_dict=True,
        ).last_hidden_state
        return self.head(hidden[padded.target_rows, padded.target_columns])


def load_critic(
    path: str, *, dropout: float, packed: bool, pretrained: bool, vocabulary: int
) -> SeparateCritic:
    """The critic that starts from the folder ``path``: a reward model with its head, or a language model.

    Args:
        pretrained: False: no weights, only their shapes, to be loaded later.
        vocabulary: of the policy, whose tokens the critic reads.

    Raises:
        UserError: a reward model of several scores, or of another vocabulary.
    """
    config = AutoConfig.from_pretrained(path)
    scores = any("SequenceClassification" in name for name in config.architectures or ())
    labels = config.num_labels if scores else getattr(config, "n_labels", 1)
    if labels != 1:
        raise UserError(
            f"critic '{path}' gives {labels} scores per token; a critic needs a reward model of one"
        )
    if config.vocab_size != vocabulary:
        raise UserError(
            f"critic '{path}' has a vocabulary of {config.vocab_size} tokens and the policy {vocabulary};"
            " give a reward model that was trained from the same model"
        )
    kind = AutoModelForSequenceClassification if scores else AutoModel
    if pretrained:
        model = kind.from_pretrained(path, config=config, torch_dtype=torch.float32)
    else:
        model = kind.from_config(config, torch_dtype=torch.float32)
    body, head = _parts(model, config, dropout)
    body.config.use_cache = False
    return SeparateCritic(body, head, packed=packed)


def _parts(model: Any, config: Any, dropout: float) -> tuple[PreTrainedModel, nn.Module]:
    if isinstance(config, RewardModelConfig):
        assert isinstance(model, AutoModelForCausalLMWithRM)
        return model.lm_backbone.base_model, _RewardHead(model.value_head, config.bias, dropout)
    if hasattr(model, "score"):
        return model.base_model, _RewardHead(model.score, 0.0, dropout)
    return model.base_model, CriticHead(config.hidden_size, dropout)
