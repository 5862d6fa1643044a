"""The reference policy of online RL: the policy before training, or a model that the document describes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from composer.core import State

from compose_rl.config.online_rl import OnlineRLSettings
from compose_rl.training.frozen import build_frozen

__all__ = ["Reference"]

_OF_POLICY = frozenset({*OnlineRLSettings.model_fields, "name", "critic_path", "peft_config"})
"""Keys of ``model:`` that a model without loss, critic and adapter does not have."""


class Reference:
    """Built when it is first asked; with LoRA it is the policy with its adapter off.

    Args:
        document: LLM Foundry's.
        use_load_path: False where ``load_path`` is training state to resume from.
    """

    def __init__(self, document: Mapping[str, Any], *, use_load_path: bool) -> None:
        policy: Mapping[str, Any] = document["model"]
        given: Mapping[str, Any] = (document.get("variables") or {}).get("reference_model") or {}
        start = document.get("load_path") if use_load_path else None
        self._keys = _keys(given.get("model_config") or policy)
        self._load_path = given.get("load_path", start)
        self.is_policys_start = _place(self._keys) == _place(policy) and self._load_path == start
        """Before the first step it is the policy itself."""
        self._model: Any = None

    @contextlib.contextmanager
    def of(self, state: State, policy: Any) -> Iterator[Any]:
        """The Hugging Face model; run it without gradient.

        Raises:
            UserError: its weights would be random.
        """
        if self.is_policys_start and getattr(policy, "using_peft", False):
            with policy.model.disable_adapter():
                yield policy.model
            return
        if self._model is None:
            self._model = build_frozen(
                state, self._keys, policy.tokenizer, self._load_path, where="callback 'on_policy_rl'"
            )
        yield self._model.model


def _keys(given: Mapping[str, Any]) -> dict[str, Any]:
    keys = {name: value for name, value in given.items() if name not in _OF_POLICY}
    overrides = keys.get("config_overrides")
    if overrides:
        keys["config_overrides"] = {k: v for k, v in overrides.items() if k not in _OF_POLICY}
    # MPT has no class without critic; its critic is one linear layer, never run.
    keys["name"] = "mpt_ppo_lm" if str(given["name"]).startswith("mpt") else "hf_critic_free_lm"
    return keys


def _place(keys: Mapping[str, Any]) -> Any:
    return keys.get("pretrained_model_name_or_path")
