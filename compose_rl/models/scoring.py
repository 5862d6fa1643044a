"""Models that score the answers of packed batches.

Each is a Hugging Face model's own class with one more argument to its forward. So it is the root that FSDP
wraps, the names of its weights are those of the exported model, and whatever saves it (``save_pretrained``,
LLM Foundry's ``hf_checkpointer``) writes a plain Hugging Face folder.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from compose_rl.core.attention import layout_mask
from compose_rl.core.packing import Packed
from compose_rl.core.padded import pad_answers
from compose_rl.models.backbone import check_packable, run_backbone, use_packed_attention

__all__ = ["EndTokenScores", "LinearScores", "ScoringModel", "ValueHeadScores", "make_scoring"]


class ScoringModel:
    """Mixed into a model class: ``forward(packed=...)`` gives scores float32 [answers(, n_labels)].

    Any other call is the class's own. Scores are taken at the last token of each answer.
    """

    scores_packed = True
    """False: each answer is run with its prompt as a padded row, for models that cannot run packed."""

    def scoring_body(self) -> PreTrainedModel:
        """The layers without any head."""
        return self.base_model

    def score_hidden(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states [N, H] to scores [N, n_labels]."""
        raise NotImplementedError

    def forward(self, *args: Any, packed: Packed | None = None, **kwargs: Any) -> Any:
        if packed is None:
            return super().forward(*args, **kwargs)
        body = self.scoring_body()
        if self.scores_packed:
            stream = run_backbone(body, packed.input_ids, packed.position_ids, layout_mask(packed))
            hidden = stream[packed.answer_ends]
        else:
            hidden = _padded_hidden(body, packed)
        return self.score_hidden(hidden).float().squeeze(-1)


class LinearScores(ScoringModel):
    """For sequence classifiers."""

    def score_hidden(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.score(hidden)


class ValueHeadScores(ScoringModel):
    """For :class:`compose_rl.models.hf_reward.AutoModelForCausalLMWithRM`."""

    def scoring_body(self) -> PreTrainedModel:
        return self.lm_backbone.base_model

    def score_hidden(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.value_head(hidden) - self.config.bias


class EndTokenScores(ScoringModel):
    """For causal language models: the score is the logit of one token, the end of a sequence."""

    def score_hidden(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.get_output_embeddings()(hidden)[:, self.config.score_token_id, None]


@functools.cache
def _scoring_class(mixin: type[ScoringModel], model_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
    # The name is what transformers writes to the configuration's "architectures".
    return type(model_class.__name__, (mixin, model_class), {"__module__": model_class.__module__})


def make_scoring(model: PreTrainedModel, mixin: type[ScoringModel], *, packed: bool = True) -> None:
    """Turn ``model`` into a :class:`ScoringModel`, in place.

    Args:
        packed: run packed, each prompt once for all of its answers.

    Raises:
        UserError: the architecture cannot run packed.
    """
    model.__class__ = _scoring_class(mixin, type(model))
    model.scores_packed = packed
    if packed:
        body = model.scoring_body()
        check_packable(body.config)
        use_packed_attention(body)


def _padded_hidden(body: nn.Module, packed: Packed) -> torch.Tensor:
    """Hidden states [answers, H] of each answer's last token, each answer with its prompt in its own row."""
    # Padding is on the right, so that no token that counts sees it; which token it is makes no difference.
    padded = pad_answers(packed, pad_token=0)
    hidden = body(
        input_ids=padded.input_ids,
        attention_mask=padded.attention_mask.bool(),
        use_cache=False,
        return_dict=True,
    ).last_hidden_state
    return hidden[torch.arange(hidden.size(0), device=hidden.device), padded.ends]
