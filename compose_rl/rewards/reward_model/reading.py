"""How answers look to a reward model: in its own tokens, with the places whose scores count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from compose_rl.data.encoding import same_tokens
from compose_rl.rewards.reward_model.points import Scored, score_points
from compose_rl.rewards.reward_model.sentences import sentence_ends, token_ends
from compose_rl.rewards.types import Failed, RewardedSample, Score

__all__ = ["Granularity", "Reader", "answer_parts", "answer_tokens", "prompt_tokens"]

Granularity = Literal["document", "sentence"]


@dataclass
class Reader:
    """Lets a scoring model judge answers of a policy."""

    model: Any
    """A :class:`compose_rl.models.scoring.ScoringModel`."""
    own: Any
    """The model's tokenizer."""
    policy: Any
    """The policy's."""
    granularity: Granularity
    token_budget: int

    def __post_init__(self) -> None:
        self._same_tokens = same_tokens(self.own, self.policy)
        self._same_template = (self.own.chat_template or "") == (self.policy.chat_template or "")

    def __call__(self, samples: Sequence[RewardedSample]) -> list[Score]:
        """Scores of ``samples``; one that is too long for the model is :class:`Failed`."""
        parts = [answer_parts(self.policy, sample, self.granularity) for sample in samples]
        scored = [self._read(sample, *part) for sample, part in zip(samples, parts, strict=True)]
        found = score_points(self.model, scored, self.token_budget)
        return [
            values if isinstance(values, Failed) else list(zip(places, values, strict=True))
            for (_, places), values in zip(parts, found, strict=True)
        ]

    def _read(self, sample: RewardedSample, ends: list[int], places: list[int]) -> Scored:
        # Of a conversation that is known the model reads its own template's form of it.
        if self._same_tokens and (self._same_template or sample.columns.get("messages") is None):
            return Scored(sample.prompt_tokens, sample.answer_tokens, tuple(places))
        answer = answer_tokens(self.own, sample.answer, sample.finished)
        prompt = prompt_tokens(self.own, sample.prompt, sample.columns.get("messages"))
        return Scored(prompt, answer, tuple(token_ends(self.own, answer, ends)))


def answer_parts(
    policy: Any, sample: RewardedSample, granularity: Granularity
) -> tuple[list[int], list[int]]:
    """Where the parts of an answer that have a score end: places in its text, and indices of its tokens.

    Args:
        policy: the tokenizer of the answer's tokens; not looked at for whole documents.
    """
    ends = sentence_ends(sample.answer) if granularity == "sentence" else [len(sample.answer)]
    return ends, token_ends(policy, sample.answer_tokens, ends)


def prompt_tokens(tokenizer: Any, prompt: str, messages: Any = None) -> tuple[int, ...]:
    """A prompt in the model's own chat template where the conversation is known, else as plain text."""
    if messages is not None and tokenizer.chat_template:
        return tuple(tokenizer.apply_chat_template(messages, add_generation_prompt=True))
    return tuple(tokenizer.encode(prompt))


def answer_tokens(tokenizer: Any, answer: str, finished: bool) -> tuple[int, ...]:
    """An answer, with the end token if it was finished (or is empty)."""
    tokens = tokenizer.encode(answer, add_special_tokens=False)
    return tuple(tokens) if tokens and not finished else (*tokens, tokenizer.eos_token_id)
