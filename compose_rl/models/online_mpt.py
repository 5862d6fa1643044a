"""Online RL of LLM Foundry's MPT, over padded rows."""

from __future__ import annotations

from typing import Any

from llmfoundry.models.mpt import ComposerMPTCausalLM
from transformers import PreTrainedTokenizerBase

from compose_rl.errors import UserError
from compose_rl.models.critic import CriticHead
from compose_rl.models.online import OnlineRL
from compose_rl.models.policy import make_policy

__all__ = ["ComposerMPTPolicyLM"]


class ComposerMPTPolicyLM(OnlineRL, ComposerMPTCausalLM):
    """``mpt_actor_critic_lm``, ``mpt_ppo_lm``: MPT has attention of its own and so cannot run packed."""

    has_critic = True

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None = None, **keys: Any) -> None:
        """Keys: those of ``OnlineRLSettings`` and those of LLM Foundry's ``mpt_causal_lm``.

        Raises:
            UserError: an impossible setting, or a critic of its own.
        """
        self.take_settings(keys)
        if not self.settings.joint_actor_critic:
            raise UserError(
                "model: joint_actor_critic=False: MPT has the shared critic alone; set it to true, or use"
                " hf_actor_critic_lm"
            )
        keys |= keys.pop("config_overrides")
        # Its language-modelling loss is not used, and the fused one exists on GPUs only.
        keys.setdefault("loss_fn", "torch_crossentropy")
        super().__init__(tokenizer=tokenizer, **keys)
        make_policy(self.model, packed=False)
        self.model.critic_head = CriticHead(self.config.d_model, self.settings.critic_dropout)
