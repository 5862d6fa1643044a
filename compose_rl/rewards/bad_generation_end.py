"""``bad_generation_end``: an answer that does not end as it should gets this and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from compose_rl.config.reward_types import BadGenerationEnd as Settings
from compose_rl.errors import UserError
from compose_rl.rewards.types import RewardedSample, Score

if TYPE_CHECKING:
    from compose_rl.rewards.building import RewardContext

__all__ = ["BadGenerationEnd"]


class BadGenerationEnd:
    """``reward`` where an answer was cut, or where its last token is none of those that may end it.

    Its points take the place of those of all other rewards: see ``replaces_others`` in
    :mod:`compose_rl.rewards.manager`.
    """

    batched: ClassVar[bool] = True
    """It is a comparison of one number: no process is worth its while."""
    replaces_others: ClassVar[bool] = True

    def __init__(self, settings: Settings, context: RewardContext) -> None:
        self._settings = settings
        self._good = {_token(context, text) for text in settings.extra_special_tokens or ()}

    def __call__(self, samples: Sequence[RewardedSample]) -> Sequence[Score]:
        return [0.0 if self._ends_well(sample) else self._settings.reward for sample in samples]

    def _ends_well(self, sample: RewardedSample) -> bool:
        return (self._settings.eos_penalty and sample.finished) or sample.answer_tokens[-1] in self._good


def _token(context: RewardContext, text: str) -> int:
    """The one token that ``text`` is: its id in the vocabulary, with no begin-of-sequence token before it."""
    ids = context.tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise UserError(
            f"bad_generation_end: extra_special_tokens: '{text}' is {len(ids)} tokens of the policy's"
            " tokenizer; name special tokens, which are one each"
        )
    return ids[0]
