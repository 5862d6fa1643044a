"""From prompts to rewarded answers: generation and scoring, as many rounds as it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from composer.utils import dist

from compose_rl.config.online_rl import OnlineVariables
from compose_rl.progress import Progress
from compose_rl.rewards.manager import RewardManager
from compose_rl.rewards.types import Failure, RewardedSample
from compose_rl.rollouts.seeds import answer_seed
from compose_rl.rollouts.types import Completion, Request, Sampling
from compose_rl.training.online.answers import Answered, answered, everyone, share

__all__ = ["PHASES", "Collector", "Round", "Seconds", "rewarded_samples"]


PHASES = ("generate", "score", "logprobs", "push", "train", "iteration")
"""Of :class:`Seconds`, as they are logged."""


@dataclass
class Seconds:
    """Where an iteration's time went, by phase."""

    spent: dict[str, float] = field(default_factory=dict)

    def add(self, phase: str, since: float) -> None:
        self.spent[phase] = self.spent.get(phase, 0.0) + time.monotonic() - since


@dataclass(frozen=True)
class Round:
    """Prompts that are answered together."""

    prompts: list[Any]
    seeds: list[tuple[int, ...]]
    """Of each prompt's answers."""

    @property
    def requests(self) -> list[Request]:
        return [
            Request(prompt=tuple(prompt.tokens), seeds=seeds)
            for prompt, seeds in zip(self.prompts, self.seeds, strict=True)
        ]


@dataclass
class Lost:
    """Answers of an iteration so far, of all ranks, that rewards failed for."""

    failures: dict[str, Failure] = field(default_factory=dict)
    """By reward."""
    total: int = 0
    """Answers judged."""

    def add(self, failures: Mapping[str, Failure], total: int) -> None:
        self.total += total
        for name, failure in failures.items():
            self.failures[name] = self.failures[name] + failure if name in self.failures else failure


class Asked(Protocol):
    """What generates: :class:`compose_rl.training.online.engine.Engine`."""

    shared: bool

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, done: Callable[[int], None]
    ) -> list[list[Completion]]: ...


class Collector:
    """Answers prompts and has the answers rewarded; what it returns is the same on every rank.

    Args:
        prompts: a :class:`compose_rl.data.prompts.PromptSource`.
        seed: of the run; an answer's seed follows from it, the iteration and the answer's number.
    """

    def __init__(
        self,
        variables: OnlineVariables,
        prompts: Any,
        engine: Asked,
        rewards: RewardManager,
        tokenizer: Any,
        sampling: Sampling,
        *,
        seed: int,
        progress: Progress,
    ) -> None:
        self.variables = variables
        self.prompts = prompts
        self.engine = engine
        self.rewards = rewards
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.seed = seed
        self.progress = progress

    def round(self, taken: int, count: int, iteration: int, first: int) -> Round:
        """The next ``count`` prompts after ``taken``; ``first``: number of their first answer."""
        each = self.variables.generations_per_prompt
        self.prompts.taken = taken
        return Round(
            prompts=self.prompts.take(count),
            seeds=[
                tuple(
                    answer_seed(self.seed, iteration, first + row * each + number) for number in range(each)
                )
                for row in range(count)
            ],
        )

    def generate(self, asked: Round) -> list[list[Completion]]:
        """Of this rank's share of the round; with a shared engine rank 0 asks for all ranks."""
        if not self.engine.shared:
            return self._ask(asked.requests[share(len(asked.prompts))])
        return self.hand_out(self._ask(asked.requests) if dist.get_global_rank() == 0 else [])

    def hand_out(self, found: list[list[Completion]]) -> list[list[Completion]]:
        """Each rank's share of what rank 0 has."""
        whole = [found]
        dist.broadcast_object_list(whole)
        return whole[0][share(len(whole[0]))]

    def _ask(self, requests: Sequence[Request]) -> list[list[Completion]]:
        total = sum(len(request.seeds) for request in requests)
        with self.progress.phase("generate", total=total, unit="answers", brief=True) as phase:
            return self.engine.generate(requests, self.sampling, phase.advance)

    def collect(
        self, taken: int, iteration: int, seconds: Seconds, ready: tuple[Round, list[list[Completion]]] | None
    ) -> tuple[list[Answered], int]:
        """The iteration's answers, and how many prompts have been taken after it.

        Args:
            taken: prompts taken so far, with those of ``ready``.
            ready: the first round, where it has been generated already, and this rank's share of it.
        """
        wanted = self.variables.num_unique_prompts_per_iter
        rounds = self.variables.dynamic_sampling.max_rounds if self.variables.dynamic_sampling else 1
        kept: list[Answered] = []
        spare: list[Answered] = []
        asked = 0
        lost = Lost()
        for _ in range(rounds):
            count = wanted - len(kept)
            if ready is None:
                now = self.round(taken, count, iteration, asked * self.variables.generations_per_prompt)
                taken += count
                started = time.monotonic()
                completions = self.generate(now)
                seconds.add("generate", started)
            else:
                (now, completions), ready = ready, None
            asked += count
            started = time.monotonic()
            for group in self._score(now, completions, lost):
                dropped = self.variables.dynamic_sampling is not None and not group.has_signal
                (spare if dropped else kept).append(group)
            seconds.add("score", started)
            if len(kept) == wanted:
                break
        return kept + spare[: wanted - len(kept)], taken

    def _score(self, asked: Round, completions: list[list[Completion]], lost: Lost) -> list[Answered]:
        prompts = asked.prompts[share(len(asked.prompts))]
        samples = rewarded_samples(prompts, completions, self.tokenizer)
        found: list[Answered] = []
        failures: dict[str, Failure] = {}
        if samples:  # else fewer prompts than ranks are left to ask
            with self.progress.phase("score", total=len(samples), unit="answers", brief=True) as phase:
                scored = self.rewards.judge(samples)
                phase.advance(len(samples))
            found = answered(prompts, completions, [sample.answer for sample in samples], scored)
            failures = scored.failures
        for part in dist.all_gather_object((failures, len(samples))):
            lost.add(*part)
        self.rewards.refuse_too_many(lost.failures, lost.total)
        return everyone(found)


def rewarded_samples(
    prompts: Sequence[Any], completions: Sequence[Sequence[Completion]], tokenizer: Any
) -> list[RewardedSample]:
    """What rewards are shown of each answer, prompt by prompt."""
    pairs = [(prompt, one) for prompt, group in zip(prompts, completions, strict=True) for one in group]
    texts = tokenizer.batch_decode([one.tokens for _, one in pairs], skip_special_tokens=True)
    return [
        RewardedSample(
            prompt=prompt.text,
            answer=text,
            prompt_tokens=prompt.tokens,
            answer_tokens=one.tokens,
            finished=one.finished,
            columns=prompt.columns,
        )
        for (prompt, one), text in zip(pairs, texts, strict=True)
    ]
