"""Causal language models that give log-probabilities, entropies and values of the answers of packed batches.

Each is a Hugging Face model's own class with one more argument to its forward. So it is the root that FSDP
wraps, PEFT wraps it as any other, the names of its weights are those of the exported model, and LLM Foundry's
``hf_checkpointer`` writes a plain Hugging Face folder.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compose_rl.core.attention import layout_mask
from compose_rl.core.logprobs import linear_logprobs, linear_logprobs_and_entropies
from compose_rl.core.packing import Packed
from compose_rl.core.padded import pad_answers
from compose_rl.errors import UserError
from compose_rl.models.backbone import run_backbone, use_packed_attention
from compose_rl.models.critic import HEAD, MODEL, is_critic

__all__ = ["PolicyModel", "make_policy"]

log = logging.getLogger(__name__)

_OF_TOKENS = frozenset({"logps", "entropies"})


class PolicyModel:
    """Mixed into a model class: ``forward(packed=..., want=...)`` gives float32 [A] of its targets by name.

    ``logps`` are log-probabilities of the targets, ``entropies`` those of the distributions that the targets
    were drawn from (nats), both at ``temperature``; ``values`` are those of the states before the targets,
    where there is a critic. Without ``want`` the log-probabilities alone are given, as a tensor. Any other
    call is the class's own.
    """

    runs_packed = True
    """False: each answer is run with its prompt as a padded row, for models that cannot run packed."""

    def forward(
        self,
        *args: Any,
        packed: Packed | None = None,
        temperature: float = 1.0,
        want: Collection[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        if packed is None:
            return super().forward(*args, **kwargs)
        if want is None:
            return self._evaluate(packed, temperature, ("logps",))["logps"]
        return self._evaluate(packed, temperature, want)

    def _evaluate(self, packed: Packed, temperature: float, want: Collection[str]) -> dict[str, Tensor]:
        results: dict[str, Tensor] = {}
        separate, head = getattr(self, MODEL, None), getattr(self, HEAD, None)
        shared_values = "values" in want and separate is None
        if shared_values and head is None:
            raise UserError("values are asked of a policy without a critic; use hf_actor_critic_lm")
        if shared_values or not _OF_TOKENS.isdisjoint(want):
            run = self._run_packed if self.runs_packed else self._run_padded
            results, hidden = run(packed, temperature, want)
            if shared_values:
                results["values"] = head(hidden)
        if "values" in want and separate is not None:
            results["values"] = separate(packed)
        return results

    def _run_packed(
        self, packed: Packed, temperature: float, want: Collection[str]
    ) -> tuple[dict[str, Tensor], Tensor]:
        stream = run_backbone(self.base_model, packed.input_ids, packed.position_ids, layout_mask(packed))
        hidden, head = stream[packed.target_index], self.get_output_embeddings()
        given = (hidden, head.weight, packed.targets)
        settings: Any = {"temperature": temperature, "bias": head.bias}
        if "entropies" in want:
            logps, entropies = linear_logprobs_and_entropies(*given, **settings)
            return {"logps": logps, "entropies": entropies}, hidden
        if "logps" in want:
            return {"logps": linear_logprobs(*given, **settings)}, hidden
        return {}, hidden

    def _run_padded(
        self, packed: Packed, temperature: float, want: Collection[str]
    ) -> tuple[dict[str, Tensor], Tensor]:
        # Padding is on the right, so no token that counts sees it; which token it is makes no difference.
        padded = pad_answers(packed, pad_token=0)
        output = super().forward(
            input_ids=padded.input_ids,
            attention_mask=padded.attention_mask.bool(),
            use_cache=False,
            output_hidden_states=True,
        )
        at = (padded.target_rows, padded.target_columns)
        results = _of_logits(output.logits[at], padded.targets, temperature, want)
        return results, output.hidden_states[-1][at]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, *rest: Any
    ) -> None:
        # A policy without a critic, such as hf_checkpointer's copy, takes the policy out of a state with one.
        for name, module in ((HEAD, getattr(self, HEAD, None)), (MODEL, getattr(self, MODEL, None))):
            foreign = [key for key in state_dict if key.startswith(f"{prefix}{name}.")]
            if foreign and module is None:
                log.warning("the checkpoint's critic (%d tensors) is left out", len(foreign))
                for key in foreign:
                    del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, *rest)


def _of_logits(
    logits: Tensor, targets: Tensor, temperature: float, want: Collection[str]
) -> dict[str, Tensor]:
    """``logps`` and, where wanted, ``entropies`` float32 [A] from logits [A, V]."""
    logps = torch.log_softmax(logits.float() / temperature, dim=-1)
    results = {"logps": logps.gather(1, targets[:, None]).squeeze(1)}
    if "entropies" in want:
        results["entropies"] = -(logps.exp() * logps).sum(-1)
    return results


def _excuse_missing_critic(model: nn.Module, incompatible: Any) -> None:
    """A checkpoint of a plain language model starts a policy with a critic, whose critic stays as it is."""
    own = {name for name in model.state_dict() if is_critic(name)}
    missing = [name for name in incompatible.missing_keys if is_critic(name)]
    if own and len(missing) == len(own):
        log.warning("the checkpoint has no critic: it starts from its own start")
        for name in missing:
            incompatible.missing_keys.remove(name)


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
    model.register_load_state_dict_post_hook(_excuse_missing_critic)
    return model
