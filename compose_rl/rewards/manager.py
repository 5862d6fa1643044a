"""All rewards of a run, and how their points come together."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import torch

from compose_rl.config.online_rl import OnlineVariables
from compose_rl.config.reward_types import RewardSettings
from compose_rl.errors import TransientError, UserError
from compose_rl.rewards.building import RewardContext, recipe, reward_class
from compose_rl.rewards.pool import RewardPool
from compose_rl.rewards.types import Failed, Failure, Reward, Rewarded, RewardedSample, Score

__all__ = ["RewardManager"]

_SHOWN = 300
"""Characters of a prompt or an answer in a message."""


class RewardManager:
    """Judges answers with every reward and adds the points up.

    A reward whose class says ``replaces_others`` takes the place of all others in answers that it gives
    points other than 0.
    """

    def __init__(
        self,
        rewards: Mapping[str, RewardSettings],
        variables: OnlineVariables,
        context: RewardContext,
        workers: int | None = None,
    ) -> None:
        """Make the rewards: models are loaded, processes started, servers asked whether they are there.

        Args:
            rewards: of :func:`compose_rl.config.rewards.parse_rewards`.
            workers: processes for functions; by default one for each CPU that this process may use.

        Raises:
            UserError: a reward that cannot be made.
            TransientError: a server that is not there.
        """
        self._settings = dict(rewards)
        self._variables = variables
        classes = {name: reward_class(settings) for name, settings in rewards.items()}
        self._replacing = [name for name, made in classes.items() if getattr(made, "replaces_others", False)]
        self._batched: dict[str, Reward] = {
            name: made(rewards[name], context) for name, made in classes.items() if made.batched
        }
        functions = {n: recipe(made, rewards[n]) for n, made in classes.items() if not made.batched}
        count = workers or len(os.sched_getaffinity(0))
        self._pool = RewardPool(functions, variables.reward_timeout, count) if functions else None

    def score(self, samples: Sequence[RewardedSample]) -> Rewarded:
        """The rewards of ``samples``, whose answers have at least one token each.

        Raises:
            UserError: a reward failed for more than ``max_lost_fraction`` of the answers.
            TransientError: the same, because the outside world failed.
        """
        rewarded = self.judge(samples)
        self.refuse_too_many(rewarded.failures, len(samples))
        return rewarded

    def judge(self, samples: Sequence[RewardedSample]) -> Rewarded:
        """The rewards of ``samples``, however many were lost; the caller sees to :meth:`refuse_too_many`."""
        scores = self._ask(samples)
        points = {
            name: [self._points(name, score, sample) for score, sample in zip(found, samples, strict=True)]
            for name, found in scores.items()
        }
        failures = {name: _failure(found, samples) for name, found in points.items()}
        failures = {name: failure for name, failure in failures.items() if failure.count}
        return self._sum(points, failures, samples)

    def refuse_too_many(self, failures: Mapping[str, Failure], total: int) -> None:
        """Stop where too many of ``total`` answers were lost.

        Raises:
            UserError: a reward failed for more than ``max_lost_fraction`` of them.
            TransientError: the same, because the outside world failed.
        """
        for name, failure in failures.items():
            if failure.count <= self._variables.max_lost_fraction * total:
                continue
            message = (
                f"variables.rewards.{name}: failed for {failure.count} of {total} answers, more than"
                f" max_lost_fraction={self._variables.max_lost_fraction:g}; the first: {failure.first}"
            )
            if 2 * failure.transient > failure.count:
                raise TransientError(message)
            raise UserError(f"{message}; mend the reward, or raise max_lost_fraction")

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.close()

    def _ask(self, samples: Sequence[RewardedSample]) -> dict[str, Sequence[Score]]:
        waiting: dict[str, list[Future[Score]]] = {
            name: self._pool.submit(name, samples)
            for name in self._settings.keys() - self._batched.keys()
            if self._pool is not None
        }
        found = {name: _ask_batched(reward, samples) for name, reward in self._batched.items()}
        found |= {name: [future.result() for future in futures] for name, futures in waiting.items()}
        return {name: found[name] for name in self._settings}

    def _points(self, name: str, score: Score, sample: RewardedSample) -> _Points | Failed:
        """A score as clipped points at answer tokens."""
        if isinstance(score, Failed):
            return score
        last = len(sample.answer_tokens) - 1
        try:
            pairs = [(last, score)] if not isinstance(score, Sequence) else score
            points = [(int(index), float(value)) for index, value in pairs]
        except (TypeError, ValueError):
            return Failed(f"gave {_short(repr(score))}, which is no number")
        for index, value in points:
            if not math.isfinite(value):
                return Failed(f"gave {value}")
            if not 0 <= index <= last:
                return Failed(f"gave points at token {index} of an answer of {last + 1}")
        clip = self._settings[name].clip
        return points if clip is None else [(i, max(-clip, min(clip, value))) for i, value in points]

    def _sum(
        self,
        points: Mapping[str, list[_Points | Failed]],
        failures: dict[str, Failure],
        samples: Sequence[RewardedSample],
    ) -> Rewarded:
        lengths = [len(sample.answer_tokens) for sample in samples]
        tokens = torch.zeros(sum(lengths))
        totals = torch.zeros(len(samples))
        components = {name: torch.full((len(samples),), math.nan) for name in points}
        lost = torch.zeros(len(samples), dtype=torch.bool)
        start = 0
        for row, length in enumerate(lengths):
            mine = {name: found[row] for name, found in points.items()}
            for name, found in mine.items():
                if not isinstance(found, Failed):
                    components[name][row] = sum(value for _, value in found)
            lost[row] = any(isinstance(found, Failed) for found in mine.values())
            if not lost[row]:
                at = tokens[start : start + length]
                for index, value in self._weighted(mine):
                    at[index] += value
                at[-1] += self._correction(float(at.sum()))
                totals[row] = at.sum()
            start += length
        return Rewarded(tokens, totals, components, lost, failures)

    def _weighted(self, points: Mapping[str, Any]) -> list[tuple[int, float]]:
        replacing = [name for name in self._replacing if any(value for _, value in points[name])]
        return [
            (index, self._settings[name].coefficient * value)
            for name in replacing or points
            for index, value in points[name]
        ]

    def _correction(self, total: float) -> float:
        """What centring and clipping add to an answer's sum."""
        centred = total - (self._variables.center_reward_mean or 0.0)
        clip = self._variables.reward_clip
        return (centred if clip is None else max(-clip, min(clip, centred))) - total


_Points = list[tuple[int, float]]


def _ask_batched(reward: Reward, samples: Sequence[RewardedSample]) -> Sequence[Score]:
    try:
        scores = reward(samples)
    except (UserError, TransientError):
        raise
    except Exception as error:
        return [Failed(f"{type(error).__name__}: {error}")] * len(samples)
    if len(scores) != len(samples):
        return [Failed(f"gave {len(scores)} scores for {len(samples)} answers")] * len(samples)
    return scores


def _failure(found: Sequence[_Points | Failed], samples: Sequence[RewardedSample]) -> Failure:
    failed = [
        (score, sample) for score, sample in zip(found, samples, strict=True) if isinstance(score, Failed)
    ]
    if not failed:
        return Failure(0, "")
    score, sample = failed[0]
    return Failure(
        len(failed),
        f"{_short(score.reason)} (prompt {_short(sample.prompt)!r}, answer {_short(sample.answer)!r})",
        sum(score.transient for score, _ in failed),
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN // 2]} ... {line[-_SHOWN // 2 :]}"
