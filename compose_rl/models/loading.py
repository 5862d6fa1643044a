"""Hugging Face folders as models ready to be judged or to judge."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from compose_rl.errors import UserError
from compose_rl.models import hf_reward

__all__ = ["load_policy", "load_reward_model"]

_REWARD_LOADERS = {
    "sequence_classification": AutoModelForSequenceClassification,
    "reward_value_head": AutoModel,
}
# AutoModel knows the second kind once hf_reward has registered it.
assert hf_reward.RewardModelConfig.model_type


def load_policy(folder: Path, precision: str) -> PreTrainedModel:
    """The causal language model in ``folder``, in evaluation mode, on the accelerator if there is one.

    Raises:
        UserError: there is none.
    """
    return _load(AutoModelForCausalLM, folder, precision)


def load_reward_model(folder: Path, model_class: str, precision: str) -> PreTrainedModel:
    """The reward model in ``folder``; ``model_class`` as in an export's ``info``.

    Raises:
        UserError: there is none, or it gives more than one score, or not by a layer on the last token.
    """
    model = _load(_REWARD_LOADERS[model_class], folder, precision)
    labels = getattr(model.config, "n_labels", model.config.num_labels)
    if labels != 1:
        raise UserError(
            f"{folder}: gives {labels} scores for a text; give a reward model of one (n_labels: 1)"
        )
    if model_class == "sequence_classification" and not hasattr(model, "score"):
        raise UserError(
            f"{folder}: {type(model).__name__} does not score a text by a layer 'score' on its last token;"
            " give a reward model made of a decoder, or serve this one to inference_reward_model"
        )
    return model


def _load(loader: type, folder: Path, precision: str) -> PreTrainedModel:
    try:
        model = loader.from_pretrained(folder, torch_dtype=getattr(torch, precision), use_safetensors=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: cannot be loaded as a model ({_first_line(error)})") from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
