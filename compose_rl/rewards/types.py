"""What a reward takes and gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

__all__ = ["Reward", "RewardedSample", "Score"]


@dataclass(frozen=True)
class RewardedSample:
    """An answer to be rewarded."""

    prompt: str
    answer: str
    """Text, without special tokens."""
    prompt_tokens: tuple[int, ...]
    answer_tokens: tuple[int, ...]
    finished: bool
    """False: cut at the greatest length."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What else the data has: ``verified_answer``, ``messages``, ``vstar``, ..."""


Score = float | Sequence[tuple[int, float]] | None
"""Of a whole answer, or of its parts: (index of an answer's token, points given at it). None: the reward
failed for this answer, which is lost."""


class Reward(Protocol):
    """A reward: made once from its keys in the document, then called with an iteration's answers.

    A plain function ``(prompt, answer, reference) -> float`` by its dotted name is one too
    (``compose_rl/rewards/functions.py``).
    """

    batched: ClassVar[bool]
    """True: called with many answers at a time (models, servers). False: with one, in a process of its own,
    with a time limit."""

    def __call__(self, samples: Sequence[RewardedSample]) -> Sequence[Score]: ...
