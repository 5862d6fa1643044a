"""How answers look to a reward model: in its own tokens, with the places whose scores count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from compose_rl.data.encoding import tokenizer_digest
from compose_rl.rewards.reward_model.points import Scored, score_points
from compose_rl.rewards.reward_model.sentences import sentence_ends, token_ends
from compose_rl.rewards.types import Failed, RewardedSample, Score

__all__ = ["Reader", "answer_tokens", "prompt_tokens"]


@dataclass
class Reader:
    """Lets a scoring model judge answers of a policy."""

    model: Any
    """A :class:`compose_rl.models.scoring.ScoringModel`."""
    own: Any
    """The model's tokenizer."""
    policy: Any
    """The policy's."""
    granularity: Literal["document", "sentence"]
    token_budget: int

    def __post_init__(self) -> None:
        self._same = tokenizer_digest(self.own) == tokenizer_digest(self.policy)
        config = getattr(self.model.config, "base_config", self.model.config)
        self._longest: int | None = getattr(config, "max_position_embeddings", None)

    def __call__(self, samples: Sequence[RewardedSample]) -> list[Score]:
        """Scores of ``samples``; one that is too long for the model is :class:`Failed`."""
        ends = [self._ends(sample.answer) for sample in samples]
        places = [token_ends(self.policy, s.answer_tokens, at) for s, at in zip(samples, ends, strict=True)]
        scored = [self._read(*given) for given in zip(samples, ends, places, strict=True)]
        result: list[Score] = [
            Failed(f"has {_length(s)} tokens, and the reward model takes {self._longest}") for s in scored
        ]
        fits = [i for i, s in enumerate(scored) if self._longest is None or _length(s) <= self._longest]
        found = score_points(self.model, [scored[i] for i in fits], self.token_budget)
        for i, values in zip(fits, found, strict=True):
            result[i] = list(zip(places[i], values, strict=True))
        return result

    def _ends(self, text: str) -> list[int]:
        return sentence_ends(text) if self.granularity == "sentence" else [len(text)]

    def _read(self, sample: RewardedSample, ends: list[int], places: list[int]) -> Scored:
        if self._same:
            return Scored(sample.prompt_tokens, sample.answer_tokens, tuple(places))
        answer = answer_tokens(self.own, sample.answer, sample.finished)
        prompt = prompt_tokens(self.own, sample.prompt, sample.columns.get("messages"))
        return Scored(prompt, answer, tuple(token_ends(self.own, answer, ends)))


def prompt_tokens(tokenizer: Any, prompt: str, messages: Any = None) -> tuple[int, ...]:
    """A prompt in the model's own chat template where the conversation is known, else as plain text."""
    if messages is not None and tokenizer.chat_template:
        return tuple(tokenizer.apply_chat_template(messages, add_generation_prompt=True))
    return tuple(tokenizer.encode(prompt))


def answer_tokens(tokenizer: Any, answer: str, finished: bool) -> tuple[int, ...]:
    """An answer, with the end token if it was finished (or is empty)."""
    tokens = tokenizer.encode(answer, add_special_tokens=False)
    return tuple(tokens) if tokens and not finished else (*tokens, tokenizer.eos_token_id)


def _length(scored: Scored) -> int:
    return len(scored.prompt) + len(scored.answer)
