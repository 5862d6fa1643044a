"""Offline preference optimisation for LLM Foundry's model registry, with the YAML keys of Compose RL."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from torch import Tensor
from torchmetrics import Metric
from transformers import PreTrainedTokenizerBase

from compose_rl.config.offline_rl import OfflineRLSettings
from compose_rl.config.schema import parse
from compose_rl.core.losses import OFFLINE_LOSSES, UNPAIRED_LOSSES, LossOutput, PairLogps, UnpairedLogps
from compose_rl.core.packing import pack
from compose_rl.errors import UserError
from compose_rl.models.metrics import RowMean
from compose_rl.models.policy_lm import ComposerHFPolicyModel

__all__ = ["ComposerHFPairwiseOfflineLM", "OfflineRL"]

EVAL_METRICS = ("loss", "accuracy", "margin")


class OfflineRL:
    """Mixed into a ComposerModel: batches in, losses out, whatever the architecture.

    Batches are the ``preference`` and ``unpaired_preference`` ones of docs/architecture.md. The reference's
    log-probabilities come with the data or from the ``offline_rl`` callback, which gives KTO its KL term too.
    """

    settings: OfflineRLSettings

    @staticmethod
    def take_settings(keys: dict[str, Any]) -> OfflineRLSettings:
        """Take the loss's own keys out of ``keys``."""
        own = {name: keys.pop(name) for name in OfflineRLSettings.model_fields if name in keys}
        return parse(OfflineRLSettings, own, "model")

    def answer_logps(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of log-probabilities float32 [answers] and token counts int64 [answers] of ragged rows."""
        packed = pack(tokens, lengths)
        token_logps = self.model(packed=packed, temperature=self.settings.temperature)
        return packed.sum_per_answer(token_logps), packed.answer_lengths

    def forward(self, batch: MutableMapping[str, Any]) -> dict[str, Tensor]:
        """``logps``, ``answer_lengths`` [answers]: chosen and rejected in turn, or one answer a row."""
        logps, lengths = self.answer_logps(batch["tokens"], batch["lengths"])
        return {"logps": logps, "answer_lengths": lengths}

    def loss(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """``total``, the mean over the batch's rows, and what is logged beside it."""
        result = self._compute(outputs, batch)
        return {"total": result.loss, **result.metrics}

    def _compute(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Any]) -> LossOutput:
        if "label" in batch:
            return self._table(UNPAIRED_LOSSES)(self._unpaired(outputs, batch), self.settings)
        return self._table(OFFLINE_LOSSES)(self._pairs(outputs, batch), self.settings)

    def _table(self, table: Mapping[str, Any]) -> Any:
        if self.settings.loss_type not in table:
            raise UserError(
                f"loss_type='{self.settings.loss_type}' needs pairs and the data has single completions;"
                f" use {' or '.join(table)}"
            )
        return table[self.settings.loss_type]

    def _pairs(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Any]) -> PairLogps:
        logps, lengths = outputs["logps"], outputs["answer_lengths"]
        return PairLogps(
            policy_chosen=logps[0::2],
            policy_rejected=logps[1::2],
            ref_chosen=self._reference(batch, "ref_chosen", logps),
            ref_rejected=self._reference(batch, "ref_rejected", logps),
            chosen_length=lengths[0::2],
            rejected_length=lengths[1::2],
            prompt_length=batch["lengths"][:, 0],
            chosen_reward=batch.get("chosen_reward"),
            rejected_reward=batch.get("rejected_reward"),
            kl=batch.get("kto_kl"),
        )

    def _unpaired(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Any]) -> UnpairedLogps:
        return UnpairedLogps(
            policy=outputs["logps"],
            ref=self._reference(batch, "ref_completion", outputs["logps"]),
            desirable=batch["label"].bool(),
            length=outputs["answer_lengths"],
            kl=batch["kto_kl"],
        )

    def _reference(self, batch: Mapping[str, Any], name: str, logps: Tensor) -> Tensor:
        if name in batch:
            return batch[name]
        if self.settings.compat:
            # Compose RL trains without a reference where there is no callback.
            return logps.new_zeros(batch["lengths"].size(0))
        raise UserError(
            f"the batch has no '{name}': add the callback 'offline_rl', or give the dataloader a 'reference'"
        )

    def eval_forward(self, batch: MutableMapping[str, Any], outputs: Any = None) -> dict[str, Tensor]:
        """The losses and figures of :meth:`loss`, means over the batch's rows."""
        losses = self.loss(self.forward(batch) if outputs is None else outputs, batch)
        return {name: value.detach() for name, value in losses.items()}

    def update_metric(self, batch: Any, outputs: Mapping[str, Tensor], metric: Metric) -> None:
        if metric.of in outputs:
            metric.update(outputs[metric.of], batch["weight"].count_nonzero())

    def get_metrics(self, is_train: bool = False) -> dict[str, Metric]:
        return (
            {} if is_train else {name: RowMean("total" if name == "loss" else name) for name in EVAL_METRICS}
        )


class ComposerHFPairwiseOfflineLM(OfflineRL, ComposerHFPolicyModel):
    """``hf_pairwise_offline_lm``: a Hugging Face causal model."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, pretrained_model_name_or_path: str, **keys: Any
    ) -> None:
        """Keys: those of :class:`OfflineRLSettings` and of :class:`ComposerHFPolicyModel`.

        Raises:
            UserError: an impossible setting, or an architecture that cannot run as asked.
        """
        self.settings = self.take_settings(keys)
        super().__init__(tokenizer, pretrained_model_name_or_path, **keys)
