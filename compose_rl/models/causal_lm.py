"""LLM Foundry's Hugging Face causal model over packed samples, for supervised fine-tuning."""

from __future__ import annotations

from typing import Any

from llmfoundry.models.hf import ComposerHFCausalLM

from compose_rl.models.backbone import use_packed_attention

__all__ = ["ComposerHFPackedCausalLM"]


class ComposerHFPackedCausalLM(ComposerHFCausalLM):
    """``hf_causal_lm`` whose attention stays within a sample, which begins where ``position_ids`` is 0.

    Everything else, peft_config, metrics, evaluation and export, is LLM Foundry's.
    """

    def transform_model(self, model: Any) -> Any:
        use_packed_attention(model)
        return model
