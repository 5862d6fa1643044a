"""What a reward takes and gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Failed", "Failure", "Reward", "Rewarded", "RewardedSample", "Score"]


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

    @property
    def reference(self) -> str:
        """The known answer, or the empty text: ``verified_answer``, of ``messages`` data in ``metadata``."""
        metadata = self.columns.get("metadata") or {}
        found = self.columns.get("verified_answer", metadata.get("verified_answer"))
        return "" if found is None else str(found)


@dataclass(frozen=True)
class Failed:
    """A reward could not judge an answer, which is lost."""

    reason: str
    transient: bool = False
    """The outside world failed: another time it may work."""


Score = float | Sequence[tuple[int, float]] | Failed
"""Of a whole answer, or of its parts: (index of an answer's token, points given at it)."""


class Reward(Protocol):
    """A reward: made once from its typed keys, then called with an iteration's answers.

    A class with ``batched = False`` is made as ``Class(settings)`` and pickled to other processes, once; one
    with ``batched = True`` as ``Class(settings, context)``, see ``compose_rl/rewards/building.py``.
    """

    batched: ClassVar[bool]
    """True: called with many answers at a time (models, servers). False: with one, in a process of its own,
    with a time limit."""

    def __call__(self, samples: Sequence[RewardedSample]) -> Sequence[Score]:
        """Scores of ``samples``, in order; an exception loses all of them."""
        ...


@dataclass(frozen=True)
class Failure:
    """What went wrong with a reward."""

    count: int
    """Answers lost."""
    first: str
    """The first one's reason and text, in one line."""
    transient: int = 0
    """Of them because the outside world failed."""

    def __add__(self, other: Failure) -> Failure:
        return Failure(self.count + other.count, self.first, self.transient + other.transient)


@dataclass(frozen=True)
class Rewarded:
    """The rewards of n answers with A tokens in all."""

    token_rewards: Tensor
    """float32 [A]: points at each answer token, one answer after the other; 0 for a lost answer."""
    totals: Tensor
    """float32 [n]: their sums."""
    components: dict[str, Tensor]
    """float32 [n] by reward: its own points (after its ``clip``, before its ``coefficient``); NaN where it
    failed."""
    lost: Tensor
    """bool [n]: a reward failed; the answer is not to be learnt from."""
    failures: dict[str, Failure]
    """By reward; only of those that failed."""

    def means(self) -> dict[str, float]:
        """Mean points by reward, over the answers that it judged; without those that judged none."""
        judged = {name: points[~points.isnan()] for name, points in self.components.items()}
        return {name: float(points.mean()) for name, points in judged.items() if points.numel()}
