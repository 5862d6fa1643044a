"""LLM Foundry's Hugging Face causal model as a policy: what offline and online RL have in common."""

from __future__ import annotations

from typing import Any

from llmfoundry.models.hf import ComposerHFCausalLM
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compose_rl.models.policy import make_policy

__all__ = ["ComposerHFPolicyModel"]


class ComposerHFPolicyModel(ComposerHFCausalLM):
    """Its ``model`` is a :class:`compose_rl.models.policy.PolicyModel`."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        pretrained_model_name_or_path: str,
        packed: bool = True,
        **keys: Any,
    ) -> None:
        """Keys: those of LLM Foundry's ``hf_causal_lm``.

        Args:
            packed: False runs every answer as a padded row with its own copy of the prompt: slower, for
                architectures that cannot run packed.

        Raises:
            UserError: an architecture that cannot run as asked.
        """
        self._packed = packed
        if packed:
            # The packed attention takes the place of any other.
            keys.pop("use_flash_attention_2", None)
            keys.pop("attn_implementation", None)
        super().__init__(tokenizer, pretrained_model_name_or_path, **keys)

    def transform_model(self, model: PreTrainedModel) -> PreTrainedModel:
        return make_policy(model, packed=self._packed)
