"""``reward_model``: a trained reward model, run in the trainer's process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from compose_rl.config.reward_types import RewardModel as Settings
from compose_rl.data.encoding import load_tokenizer
from compose_rl.errors import UserError
from compose_rl.rewards.building import RewardContext
from compose_rl.rewards.reward_model.loading import load_scoring_model
from compose_rl.rewards.reward_model.reading import Reader
from compose_rl.rewards.types import RewardedSample, Score

__all__ = ["LocalRewardModel"]


class LocalRewardModel:
    """The score that an exported reward model gives an answer, or each of its sentences."""

    batched: ClassVar[bool] = True

    def __init__(self, settings: Settings, context: RewardContext) -> None:
        folder = Path(settings.model) if settings.model is not None else context.reward_model
        if folder is None:
            raise UserError(
                "rewards: reward_type='reward_model' has no model; give the stage the input reward_model,"
                " or name the folder of an exported one: model: FOLDER"
            )
        self._reader = Reader(
            model=load_scoring_model(folder, settings.precision, context.device),
            own=load_tokenizer(folder),
            policy=context.tokenizer,
            granularity=settings.granularity,
            token_budget=settings.token_budget,
        )

    def __call__(self, samples: Sequence[RewardedSample]) -> Sequence[Score]:
        return self._reader(samples)
