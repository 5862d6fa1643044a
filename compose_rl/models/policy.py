"""Causal language models that give the log-probabilities of the answers of packed batches.

Each is a Hugging Face model's own class with one more argument to its forward. So it is the root that FSDP
wraps, PEFT wraps it as any other, the names of its weights are those of the exported model, and LLM Foundry's
``hf_checkpointer`` writes a plain Hugging Face folder.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from compose_rl.core.attention import layout_mask
from compose_rl.core.logprobs import linear_logprobs
from compose_rl.core.packing import Packed
from compose_rl.core.padded import pad_answers, padded_logprobs
from compose_rl.errors import UserError
from compose_rl.models.backbone import run_backbone, use_packed_attention

__all__ = ["PolicyModel", "make_policy"]


class PolicyModel:
    """Mixed into a model class: ``forward(packed=...)`` gives log-probabilities float32 [A] of its targets.

    Any other call is the class's own.
    """

    runs_packed = True
    """False: each answer is run with its prompt as a padded row, for models that cannot run packed."""

    def forward(
        self, *args: Any, packed: Packed | None = None, temperature: float = 1.0, **kwargs: Any
    ) -> Any:
        if packed is None:
            return super().forward(*args, **kwargs)
        if not self.runs_packed:
            return self._padded(packed, temperature)
        stream = run_backbone(self.base_model, packed.input_ids, packed.position_ids, layout_mask(packed))
        head = self.get_output_embeddings()
        return linear_logprobs(
            stream[packed.target_index],
            head.weight,
            packed.targets,
            temperature=temperature,
            bias=head.bias,
        )

    def _padded(self, packed: Packed, temperature: float) -> torch.Tensor:
        # Padding is on the right, so no token that counts sees it; which token it is makes no difference.
        own = super().forward
        return padded_logprobs(
            lambda ids, mask: own(input_ids=ids, attention_mask=mask.bool(), use_cache=False).logits,
            pad_answers(packed, pad_token=0),
            temperature=temperature,
        )


@functools.cache
def _policy_class(model_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
    # The name is what transformers writes to the configuration's "architectures".
    return type(model_class.__name__, (PolicyModel, model_class), {"__module__": model_class.__module__})


def make_policy(model: PreTrainedModel, *, packed: bool = True) -> PreTrainedModel:
    """Turn ``model`` into a :class:`PolicyModel`, in place.

    Args:
        packed: run packed, each prompt once for all of its answers.

    Raises:
        UserError: the architecture cannot run packed, or its output layer is not a plain linear one.
    """
    if packed:
        use_packed_attention(model)
        head = model.get_output_embeddings()
        if not isinstance(head, nn.Linear):
            raise UserError(
                f"the output layer is a {type(head).__name__}: packed training needs a plain linear layer;"
                " set packed: false"
            )
    model.__class__ = _policy_class(type(model))
    model.runs_packed = packed
    return model
