"""A reward model's Hugging Face folder as a model that scores packed answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from compose_rl.config.reward_model import model_class
from compose_rl.errors import UserError
from compose_rl.models.backbone import check_packable
from compose_rl.models.loading import load_reward_model
from compose_rl.models.scoring import LinearScores, ScoringModel, ValueHeadScores, make_scoring

__all__ = ["load_scoring_model", "model_class_of", "packable"]

_MIXINS: dict[str, type[ScoringModel]] = {
    "sequence_classification": LinearScores,
    "reward_value_head": ValueHeadScores,
}


def load_scoring_model(folder: Path, precision: str, device: str | torch.device) -> Any:
    """The reward model in ``folder``, which is never trained: evaluation mode, no gradients.

    Raises:
        UserError: see :func:`model_class_of` and :func:`compose_rl.models.loading.load_reward_model`.
    """
    kind = model_class_of(folder)
    model: Any = load_reward_model(folder, kind, precision).to(device)
    mixin = _MIXINS[kind]
    body = model.base_model if mixin is LinearScores else model.lm_backbone.base_model
    make_scoring(model, mixin, packed=packable(body.config))
    return model.requires_grad_(False)


def model_class_of(folder: Path) -> str:
    """Which of an export's classes of reward models lies in ``folder``.

    Raises:
        UserError: none of them.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no config.json ({error}); give an exported reward model") from None
    found = model_class(config)
    if found is None:
        architecture = (config.get("architectures") or [""])[0]
        raise UserError(f"{folder}: is a '{architecture}'; give an exported reward model")
    return found


def packable(config: Any) -> bool:
    """Whether a model of this configuration runs packed; if not, it runs over padded rows."""
    try:
        check_packable(config)
    except UserError:
        return False
    return True
