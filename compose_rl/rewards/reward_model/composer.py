"""``hf_pairwise`` and ``mpt_pairwise``: Compose RL's reward models, built by LLM Foundry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from llmfoundry.utils.builders import build_composer_model

from compose_rl.config.reward_types import ComposerRewardModel as Settings
from compose_rl.data.encoding import load_tokenizer
from compose_rl.errors import UserError
from compose_rl.models.checkpoint import read_weights
from compose_rl.rewards.building import RewardContext
from compose_rl.rewards.reward_model.reading import Reader
from compose_rl.rewards.types import RewardedSample, Score

__all__ = ["ComposerRewardModel"]

_DTYPES = {"fp32": torch.float32, "amp_fp32": torch.float32, "amp_bf16": torch.bfloat16}


class ComposerRewardModel:
    """The score of a model in LLM Foundry's registry, with the weights of a Composer checkpoint."""

    batched: ClassVar[bool] = True

    def __init__(self, settings: Settings, context: RewardContext) -> None:
        keys = dict(settings.composer_model)
        name = keys.pop("name", None) or f"{settings.reward_type}_rm"
        place = (settings.tokenizer or {}).get("name") or keys.get("pretrained_model_name_or_path")
        tokenizer = load_tokenizer(place) if place is not None else context.tokenizer
        built: Any = build_composer_model(name=name, cfg=keys, tokenizer=tokenizer)
        if not hasattr(built.model, "scores_packed"):
            raise UserError(
                f"rewards: model_config.name='{name}' is no reward model; give"
                " hf_pairwise_rm or mpt_pairwise_rm"
            )
        if settings.load_path is not None:
            _load(built.model, Path(settings.load_path))
        model = built.model.to(device=context.device, dtype=_DTYPES[settings.precision])
        self._reader = Reader(
            model=model.eval().requires_grad_(False),
            own=tokenizer,
            policy=context.tokenizer,
            granularity=settings.granularity,
            token_budget=settings.token_budget,
        )

    def __call__(self, samples: Sequence[RewardedSample]) -> Sequence[Score]:
        return self._reader(samples)


def _load(model: torch.nn.Module, checkpoint: Path) -> None:
    weights = read_weights(checkpoint)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"rewards: load_path={checkpoint}: its weights are of another model ({first}); give the"
            " checkpoint of the model that model_config describes"
        ) from None
