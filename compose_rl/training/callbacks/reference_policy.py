"""The reference policy of offline preference optimisation, run beside the policy, and KTO's KL term."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from composer.core import State, get_precision_context
from composer.loggers import Logger
from composer.utils import dist
from llmfoundry.interfaces import CallbackWithConfig
from torch import Tensor

from compose_rl.core.losses import kto_kl, kto_kl_sums
from compose_rl.data.microbatches import split_ragged
from compose_rl.errors import UserError
from compose_rl.models.offline import OfflineRL
from compose_rl.training.frozen import build_frozen
from compose_rl.training.unwrapped import model_of_kind

__all__ = ["ReferencePolicy"]

_ANSWERS = {3: ("ref_chosen", "ref_rejected"), 2: ("ref_completion",)}
"""Names of the reference's log-probabilities by the columns of ``lengths``."""


class ReferencePolicy(CallbackWithConfig):
    """Adds to every microbatch what its data lacks: the reference's log-probabilities, and KTO's ``kto_kl``.

    The reference is the model that the document describes, with its ``load_path``: the policy before
    training, also when training was resumed. With LoRA it is the policy with its adapter off. It is built
    only when a batch needs it.

    Args:
        train_config: the document, given by LLM Foundry.
        use_load_path: False where ``load_path`` is training state to resume from and not where the policy
            starts.
    """

    def __init__(self, train_config: dict[str, Any], use_load_path: bool = True) -> None:
        self._document = train_config
        self._load_path = train_config.get("load_path") if use_load_path else None
        self._token_budget = train_config["train_loader"].get("token_budget")
        self._reference: OfflineRL | None = None
        self._kl: Tensor | None = None

    def before_train_batch(self, state: State, logger: Logger) -> None:
        # The state still has the whole batch of this rank here, which Composer has cut into microbatches.
        size = state.device_train_microbatch_size
        assert size is not None
        self._kl = self._batch_kl(state, size)

    def eval_batch_start(self, state: State, logger: Logger) -> None:
        self._kl = self._batch_kl(state, state.batch["lengths"].size(0))

    def before_forward(self, state: State, logger: Logger) -> None:
        self._complete(state)

    def eval_before_forward(self, state: State, logger: Logger) -> None:
        self._complete(state)

    def _complete(self, state: State) -> None:
        batch = state.batch
        names = _ANSWERS[batch["lengths"].size(1)]
        if names[0] not in batch:
            with self._reference_of(state) as reference:
                logps, _ = reference.answer_logps(batch["tokens"], batch["lengths"])
            for column, name in enumerate(names):
                batch[name] = logps[column :: len(names)]
        if self._kl is not None:
            batch["kto_kl"] = self._kl

    def _batch_kl(self, state: State, microbatch_size: int | float) -> Tensor | None:
        """KTO's KL term over this batch of all ranks, in passes without gradient; None for other losses."""
        settings = policy_of(state).settings
        if settings.loss_type != "kto" or settings.compat:
            return None
        if "kl_tokens" not in state.batch:
            raise UserError(
                "loss_type='kto' needs mismatched answers in its batches; set train_loader.kl_pairs"
                " (and eval_loader.kl_pairs) to true"
            )
        sums = torch.zeros(2)
        for part in split_ragged(state.batch, microbatch_size, self._token_budget):
            sums += self._kl_sums(state, state.device.batch_to_device(part))
        sums = state.device.tensor_to_device(sums)
        dist.all_reduce(sums)
        return kto_kl(sums)

    def _kl_sums(self, state: State, batch: dict[str, Tensor]) -> Tensor:
        policy = policy_of(state)
        tokens, lengths = batch["kl_tokens"], batch["kl_lengths"]
        with _no_grad(state):
            logps, answer_lengths = policy.answer_logps(tokens, lengths)
        if "ref_kl" in batch:
            reference_logps = batch["ref_kl"]
        else:
            with self._reference_of(state) as reference:
                reference_logps, _ = reference.answer_logps(tokens, lengths)
        rows = batch["weight"] > 0
        return kto_kl_sums(logps[rows], reference_logps[rows], answer_lengths[rows], policy.settings).cpu()

    @contextlib.contextmanager
    def _reference_of(self, state: State) -> Iterator[OfflineRL]:
        policy = policy_of(state)
        with _no_grad(state):
            if policy.using_peft:
                with policy.model.disable_adapter():
                    yield policy
                return
            if self._reference is None:
                self._reference = build_frozen(
                    state,
                    self._document["model"],
                    policy.tokenizer,
                    self._load_path,
                    where="callback 'offline_rl'",
                )
            yield self._reference


def policy_of(state: State) -> Any:
    """The Composer model; raises UserError where it is no offline preference model."""
    names = "hf_pairwise_offline_lm and mpt_pairwise_offline_lm"
    return model_of_kind(state, OfflineRL, callback="offline_rl", names=names)


@contextlib.contextmanager
def _no_grad(state: State) -> Iterator[None]:
    with torch.no_grad(), get_precision_context(state.precision, state.precision_config):
        yield
