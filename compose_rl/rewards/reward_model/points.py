"""Scores at chosen tokens of answers, each prompt run once for its answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from compose_rl.core.packing import Packed, fill, pack
from compose_rl.rewards.types import Failed

__all__ = ["Scored", "score_points"]

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Scored:
    """An answer in a reward model's own tokens."""

    prompt: Tokens
    answer: Tokens
    """At least one token."""
    points: tuple[int, ...]
    """Indices of the answer's tokens whose score is wanted."""

    @property
    def length(self) -> int:
        """Tokens, with the prompt's."""
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class _Row:
    """Answers that share a prompt; ``numbers`` says which they are."""

    prompt: Tokens
    answers: list[Tokens]
    points: list[tuple[int, ...]]
    numbers: list[int]

    @property
    def tokens(self) -> int:
        return len(self.prompt) + sum(map(len, self.answers))


def score_points(model: Any, scored: Sequence[Scored], token_budget: int) -> list[list[float] | Failed]:
    """The scores of each of ``scored`` at its points; one that is too long for the model is ``Failed``.

    Args:
        model: a :class:`compose_rl.models.scoring.ScoringModel`.
        token_budget: of a forward pass; an answer that is longer has one of its own.
    """
    config = getattr(model.config, "base_config", model.config)
    longest: int | None = getattr(config, "max_position_embeddings", None)
    result: list[list[float] | Failed] = [
        Failed(f"has {s.length} tokens, and the reward model takes {longest}") for s in scored
    ]
    fits = [i for i, s in enumerate(scored) if longest is None or s.length <= longest]
    for i, values in zip(fits, _points(model, [scored[i] for i in fits], token_budget), strict=True):
        result[i] = values
    return result


def _points(model: Any, scored: Sequence[Scored], token_budget: int) -> list[list[float]]:
    if model.scores_packed:
        return _score(model, list(_shared(scored, token_budget)), len(scored), token_budget)
    # A padded pass scores ends alone: an answer for each point, which ends there.
    prefixes = [Scored(s.prompt, s.answer[: at + 1], (at,)) for s in scored for at in s.points]
    rows = [_Row(s.prompt, [s.answer], [s.points], [number]) for number, s in enumerate(prefixes)]
    each = iter(_score(model, rows, len(prefixes), token_budget))
    return [[next(each)[0] for _ in answer.points] for answer in scored]


@torch.inference_mode()
def _score(model: Any, rows: list[_Row], total: int, token_budget: int) -> list[list[float]]:
    found: list[list[float]] = [[] for _ in range(total)]
    device = next(model.parameters()).device
    for part in fill([row.tokens for row in rows], token_budget, balance=True):
        batch = [rows[i] for i in part]
        scores = iter(model(packed=_packed(batch).to(device)).float().cpu().tolist())
        for row in batch:
            for number, points in zip(row.numbers, row.points, strict=True):
                found[number] = [next(scores) for _ in points]
    return found


def _shared(scored: Sequence[Scored], token_budget: int) -> Iterator[_Row]:
    """Rows of answers to the same prompt, each within the budget (or of one answer)."""
    open_rows: dict[Tokens, _Row] = {}
    for number, answer in enumerate(scored):
        row = open_rows.get(answer.prompt)
        if row is None or row.tokens + len(answer.answer) > token_budget:
            if row is not None:
                yield row
            row = open_rows[answer.prompt] = _Row(answer.prompt, [], [], [])
        row.answers.append(answer.answer)
        row.points.append(answer.points)
        row.numbers.append(number)
    yield from open_rows.values()


def _packed(rows: list[_Row]) -> Packed:
    """The rows as a packed stream whose "ends" are the points that are asked for."""
    stream: list[int] = []
    ends: list[int] = []
    widest = max(len(row.answers) for row in rows)
    lengths = torch.zeros(len(rows), 1 + widest, dtype=torch.int64)
    for number, row in enumerate(rows):
        stream += row.prompt
        counts = [len(row.prompt), *map(len, row.answers)]
        lengths[number, : len(counts)] = torch.tensor(counts)
        for answer, points in zip(row.answers, row.points, strict=True):
            ends += [len(stream) + at for at in points]
            stream += answer
    return dataclasses.replace(pack(torch.tensor(stream), lengths), answer_ends=torch.tensor(ends))
