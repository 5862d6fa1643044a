"""Online RL for LLM Foundry's model registry, with the YAML keys of Compose RL."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, MutableMapping
from typing import Any, ClassVar

import torch
from llmfoundry.models.hf.hf_fsdp import hf_get_hidden_layers, hf_get_init_device
from llmfoundry.models.utils import init_empty_weights
from torch import Tensor
from torchmetrics import Metric
from transformers import PreTrainedTokenizerBase

from compose_rl.config.online_rl import CRITIC_LOSSES, OnlineRLSettings
from compose_rl.config.schema import parse
from compose_rl.core.losses.policy import POLICY_LOSSES
from compose_rl.core.losses.policy.types import PolicyTokens, ValueTokens
from compose_rl.core.losses.value import value_loss
from compose_rl.core.packing import pack
from compose_rl.errors import UserError
from compose_rl.models.backbone import unwrapped
from compose_rl.models.critic import CriticHead, is_critic_head, load_critic
from compose_rl.models.metrics import RowMean
from compose_rl.models.policy_lm import ComposerHFPolicyModel

__all__ = ["ComposerHFCriticFreePolicyLM", "ComposerHFPolicyLM", "OnlineRL"]

EVAL_METRICS = ("loss", "policy_kl")
_WITH_CRITIC, _WITHOUT_CRITIC = ("needs a", "hf_actor_critic_lm"), ("has no", "hf_critic_free_lm")


class OnlineRL:
    """Mixed into a ComposerModel: update batches of docs/architecture.md in, losses out."""

    has_critic: ClassVar[bool]
    settings: OnlineRLSettings
    temperature: float
    """Of log-probabilities. The loop sets it to that of sampling where ``settings.temperature`` is None."""

    def take_settings(self, keys: dict[str, Any]) -> None:
        """Take online RL's own keys out of ``keys`` and its ``config_overrides``, where Compose RL has them.

        Raises:
            UserError: an impossible value, or a loss that belongs to another model.
        """
        _refuse_dropout(keys.get("peft_config"))
        overrides = keys["config_overrides"] = dict(keys.get("config_overrides") or {})
        known = OnlineRLSettings.model_fields
        own = {name: part.pop(name) for part in (overrides, keys) for name in list(part) if name in known}
        own.setdefault("loss_type", "ppo" if self.has_critic else "grpo")
        self.settings = parse(OnlineRLSettings, own, "model")
        self.temperature = self.settings.temperature or 1.0
        if self.settings.has_critic != self.has_critic:
            says, right = _WITH_CRITIC if self.settings.has_critic else _WITHOUT_CRITIC
            own_losses = [name for name in POLICY_LOSSES if (name in CRITIC_LOSSES) == self.has_critic]
            raise UserError(
                f"model: loss_type='{self.settings.loss_type}' {says} critic; use the model {right},"
                f" or loss_type: {' or '.join(own_losses)}"
            )

    def forward(self, batch: MutableMapping[str, Any]) -> dict[str, Tensor]:
        """``logps``, ``entropies`` and, with a critic, ``values`` float32 [A]; ``answer_ids`` int64 [A]."""
        packed = pack(batch["tokens"], batch["lengths"])
        want = ("logps", "entropies", "values") if self.has_critic else ("logps", "entropies")
        outputs = self.model(packed=packed, temperature=self.temperature, want=want)
        return {**outputs, "answer_ids": packed.answer_ids}

    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """``total``, the mean over the answers that count, and what is logged beside it."""
        tokens = self._policy_tokens(outputs, batch)
        result = POLICY_LOSSES[self.settings.loss_type](tokens, self.settings)
        losses = {"total": result.loss, **result.metrics}
        if self.has_critic:
            value = value_loss(self._value_tokens(outputs, batch, tokens), self.settings)
            losses["total"] = losses["total"] + value.loss
            losses |= value.metrics
        return losses

    def _policy_tokens(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Any]) -> PolicyTokens:
        answers = batch["lengths"].size(1) - 1
        old_logps = batch.get("old_logps")
        kl_coef, vstar = batch.get("kl_coef"), batch.get("vstar")
        return PolicyTokens(
            logps=outputs["logps"],
            # Nothing has changed since the iteration began where the old ones were not worth computing.
            old_logps=outputs["logps"].detach() if old_logps is None else old_logps,
            advantages=batch["advantages"],
            weights=batch["token_weights"],
            answer_ids=outputs["answer_ids"],
            answer_weights=batch["answer_weights"].flatten(),
            ref_logps=batch.get("ref_logps"),
            engine_logps=batch.get("engine_logps"),
            entropies=outputs["entropies"],
            kl_coef=None if kl_coef is None else kl_coef[0],
            rewards=batch["answer_rewards"].flatten() if "answer_rewards" in batch else None,
            vstar=None if vstar is None else vstar.repeat_interleave(answers),
        )

    def _value_tokens(
        self, outputs: Mapping[str, Tensor], batch: Mapping[str, Any], tokens: PolicyTokens
    ) -> ValueTokens:
        values = outputs["values"]
        old_values = batch.get("old_values")
        return ValueTokens(
            values=values,
            old_values=values.detach() if old_values is None else old_values,
            returns=batch["returns"],
            weights=tokens.weights,
            answer_weights=tokens.answer_weights,
        )

    def eval_forward(self, batch: MutableMapping[str, Any], outputs: Any = None) -> dict[str, Tensor]:
        """The losses and figures of :meth:`loss` on an update batch.

        Raises:
            UserError: a batch of prompts, which have no loss.
        """
        if "advantages" not in batch:
            raise UserError(
                "eval_loader: online RL has no loss on prompts; leave it out, and use stage 'evaluate'"
            )
        losses = self.loss(self.forward(batch) if outputs is None else outputs, batch)
        return {name: value.detach() for name, value in losses.items()}

    def update_metric(self, batch: Any, outputs: Mapping[str, Tensor], metric: Metric) -> None:
        if metric.of in outputs:
            answers = batch["answer_weights"] * batch["weight"][:, None]
            metric.update(outputs[metric.of], answers.count_nonzero())

    def get_metrics(self, is_train: bool = False) -> dict[str, Metric]:
        return (
            {} if is_train else {name: RowMean("total" if name == "loss" else name) for name in EVAL_METRICS}
        )


class _HFOnlineLM(OnlineRL, ComposerHFPolicyModel):
    """Online RL of a Hugging Face causal model."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, pretrained_model_name_or_path: str, **keys: Any
    ) -> None:
        """Keys: those of :class:`OnlineRLSettings` and of :class:`ComposerHFPolicyModel`.

        Raises:
            UserError: an impossible setting, or an architecture that cannot run as asked.
        """
        self.take_settings(keys)
        super().__init__(tokenizer, pretrained_model_name_or_path, **keys)


class ComposerHFCriticFreePolicyLM(_HFOnlineLM):
    """``hf_critic_free_lm``: advantages come from the rewards of an answer's group."""

    has_critic = False


class ComposerHFPolicyLM(_HFOnlineLM):
    """``hf_actor_critic_lm``, ``hf_ppo_lm``: advantages come from a critic."""

    has_critic = True

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        pretrained_model_name_or_path: str,
        critic_path: str | None = None,
        **keys: Any,
    ) -> None:
        """Keys: those of the critic-free model.

        Args:
            critic_path: with ``joint_actor_critic: false``, the folder that the critic starts from: a reward
                model; by default the policy's.

        Raises:
            UserError: as of the critic-free model, or a critic that does not fit the policy.
        """
        pretrained = keys.get("pretrained", True)
        init_device = keys.get("init_device", "cpu")
        super().__init__(tokenizer, pretrained_model_name_or_path, **keys)
        if self.settings.joint_actor_critic:
            if critic_path is not None:
                raise UserError(
                    f"model: critic_path='{critic_path}' is for a critic of its own;"
                    " set joint_actor_critic: false"
                )
            self._add_head()
        else:
            self._add_critic(critic_path or pretrained_model_name_or_path, pretrained, init_device)

    def _add_head(self) -> None:
        # After PEFT, which would freeze it.
        inner = unwrapped(self.model)
        inner.critic_head = CriticHead(self.config.hidden_size, self.settings.critic_dropout)

    def _add_critic(self, path: str, pretrained: bool, init_device: str) -> None:
        # LLM Foundry: with "mixed" rank 0 has the weights, and FSDP gives them to the others.
        empty = hf_get_init_device(init_device) == "meta"
        with init_empty_weights(include_buffers=False) if empty else contextlib.nullcontext():
            critic = load_critic(
                path,
                dropout=self.settings.critic_dropout,
                packed=self._packed,
                pretrained=pretrained and not empty,
                vocabulary=self.config.vocab_size,
            )
        if self.using_peft:
            from peft import inject_adapter_in_model

            inject_adapter_in_model(self.model.peft_config["default"], critic.body)
        unwrapped(self.model).critic = critic
        self._wrap_blocks(type(hf_get_hidden_layers(critic.body)[0]))

    def _wrap_blocks(self, block: type) -> None:
        """FSDP and activation checkpointing treat the critic's blocks as the policy's."""
        for name in ("fsdp_wrap_fn", "activation_checkpointing_fn"):
            policys = getattr(self.model, name)
            setattr(self.model, name, lambda m, policys=policys: isinstance(m, block) or policys(m))

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """LLM Foundry's, which keeps of a model with an adapter the adapter alone, and the critic's head."""
        kept = super().state_dict(*args, **kwargs)
        if self.using_peft and self.should_save_peft_only:
            whole = torch.nn.Module.state_dict(self, *args, **kwargs)
            kept |= {name: tensor for name, tensor in whole.items() if is_critic_head(name)}
        return kept


def _refuse_dropout(peft_config: Mapping[str, Any] | None) -> None:
    dropout = (peft_config or {}).get("lora_dropout", 0.0)
    if dropout:
        raise UserError(
            f"peft_config.lora_dropout={dropout}: what drops out would pass for a change of the policy"
            " in the ratio of its probabilities to those that the answers were drawn with; set it to 0"
        )
