"""The answers of an iteration, of all ranks, before they become an Experience."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from composer.utils import dist
from torch import Tensor

from compose_rl.rewards.types import Rewarded
from compose_rl.rollouts.types import Completion

__all__ = ["Answered", "Answers", "everyone", "share"]


def share(count: int) -> slice:
    """This rank's even part of ``count`` things in order."""
    rank, world = dist.get_global_rank(), dist.get_world_size()
    return slice(rank * count // world, (rank + 1) * count // world)


def everyone(own: Sequence[Any]) -> list[Any]:
    """The parts of all ranks, in their order."""
    return [item for part in dist.all_gather_object(list(own)) for item in part]


@dataclass(frozen=True)
class Answered:
    """A prompt with its answers and their rewards."""

    prompt: Any
    """Of :class:`compose_rl.data.prompts.PromptSource`."""
    completions: tuple[Completion, ...]
    texts: tuple[str, ...]
    token_rewards: tuple[tuple[float, ...], ...]
    components: dict[str, tuple[float, ...]]
    lost: tuple[bool, ...]

    @property
    def has_signal(self) -> bool:
        """The answers that are not lost do not all have the same reward."""
        totals = {
            round(sum(points), 6)
            for points, lost in zip(self.token_rewards, self.lost, strict=True)
            if not lost
        }
        return len(totals) > 1


class Answers:
    """Tensors over the n answers, and their A tokens, of ``groups``."""

    def __init__(self, groups: Sequence[Answered]) -> None:
        self.groups = list(groups)
        self.prompts = [group.prompt for group in groups]
        self.each = len(groups[0].completions)
        self.completions = [one for group in groups for one in group.completions]
        self.texts = [text for group in groups for text in group.texts]
        self.lengths = torch.tensor([len(one.tokens) for one in self.completions])
        self.finished = torch.tensor([one.finished for one in self.completions])
        self.counted = ~torch.tensor([lost for group in groups for lost in group.lost])
        """bool [n]: no reward failed."""
        self.token_rewards = _flat([points for group in groups for points in group.token_rewards])
        self.engine_logps = _flat([one.logprobs for one in self.completions])
        self.components = {
            name: torch.tensor([x for group in groups for x in group.components[name]])
            for name in groups[0].components
        }
        self.group_ids = torch.arange(len(groups)).repeat_interleave(self.each)
        self.totals = self.per_answer(self.token_rewards)

    def per_answer(self, values: Tensor) -> Tensor:
        """Sums [n] of ``values`` [A] over each answer's tokens."""
        ids = torch.arange(len(self.lengths)).repeat_interleave(self.lengths)
        return values.new_zeros(len(self.lengths)).index_add(0, ids, values)


def _flat(parts: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor([value for part in parts for value in part], dtype=torch.float32)


def answered(
    prompts: Sequence[Any],
    completions: Sequence[Sequence[Completion]],
    texts: Sequence[str],
    scored: Rewarded,
) -> list[Answered]:
    """Put together what was found out of this rank's prompts."""
    points = iter(scored.token_rewards.split([len(c.tokens) for group in completions for c in group]))
    found: list[Answered] = []
    row = 0
    for prompt, group in zip(prompts, completions, strict=True):
        rows = slice(row, row + len(group))
        row += len(group)
        found.append(
            Answered(
                prompt=prompt,
                completions=tuple(group),
                texts=tuple(texts[rows]),
                token_rewards=tuple(tuple(next(points).tolist()) for _ in group),
                components={name: tuple(x[rows].tolist()) for name, x in scored.components.items()},
                lost=tuple(scored.lost[rows].tolist()),
            )
        )
    return found
