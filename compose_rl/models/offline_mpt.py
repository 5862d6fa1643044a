"""Offline preference optimisation of LLM Foundry's MPT, over padded rows."""

from __future__ import annotations

from typing import Any

from llmfoundry.models.mpt import ComposerMPTCausalLM
from transformers import PreTrainedTokenizerBase

from compose_rl.models.offline import OfflineRL
from compose_rl.models.policy import make_policy

__all__ = ["ComposerMPTPairwiseOfflineLM"]


class ComposerMPTPairwiseOfflineLM(OfflineRL, ComposerMPTCausalLM):
    """``mpt_pairwise_offline_lm``: MPT has attention of its own and so cannot run packed."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None = None, **keys: Any) -> None:
        """Keys: those of ``OfflineRLSettings`` and those of LLM Foundry's ``mpt_causal_lm``."""
        self.settings = self.take_settings(keys)
        # Its language-modelling loss is not used, and the fused one exists on GPUs only.
        keys.setdefault("loss_fn", "torch_crossentropy")
        super().__init__(tokenizer=tokenizer, **keys)
        make_policy(self.model, packed=False)
