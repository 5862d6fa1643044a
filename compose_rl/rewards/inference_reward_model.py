"""``inference_reward_model``: a reward model behind HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

from compose_rl.config.reward_types import InferenceRewardModel as Settings
from compose_rl.data.encoding import tokenizer_digest
from compose_rl.errors import TransientError, UserError
from compose_rl.rewards.building import RewardContext
from compose_rl.rewards.endpoint import Endpoint, Refused, Unavailable
from compose_rl.rewards.reward_model.reading import answer_parts
from compose_rl.rewards.types import Failed, RewardedSample, Score

__all__ = ["InferenceRewardModel"]


class InferenceRewardModel:
    """Posts ``{"sequences": [...]}``, takes ``{"scores": [...]}``: a number for each, null where it failed.

    A sequence is ``{"prompt_tokens", "answer_tokens"}``, or with ``send: text`` ``{"prompt", "answer",
    "finished"}`` and, where the data has them, ``"messages"``. With ``granularity: sentence`` it has
    ``"points"`` (``"ends"``) too: the token (the place in the text) at which each sentence ends, and its
    score is a list with a number for each.
    """

    batched: ClassVar[bool] = True

    def __init__(self, settings: Settings, context: RewardContext) -> None:
        """Raises TransientError where this project's server is away, UserError where it does not fit."""
        self._settings = settings
        self._tokenizer = context.tokenizer
        self._in_sentences = settings.granularity == "sentence"
        self._endpoint = Endpoint(settings)
        self._url = settings.url
        if urlsplit(settings.url).path in ("", "/"):
            self._url = f"{settings.url}/score"
            self._check_health(f"{settings.url}/health", context)

    def _check_health(self, url: str, context: RewardContext) -> None:
        try:
            health = self._endpoint.request(url)
        except Unavailable as error:
            raise TransientError(f"rewards: inference_reward_model: {error}") from None
        except Refused as error:
            raise UserError(
                f"rewards: inference_reward_model: {error}; give the url of a reward server"
            ) from None
        theirs = health.get("tokenizer_sha256") if isinstance(health, dict) else None
        if self._settings.send == "tokens" and theirs != tokenizer_digest(context.tokenizer):
            raise UserError(
                f"rewards: inference_reward_model: {url}: its model has another tokenizer than the policy;"
                " set send: text"
            )

    def __call__(self, samples: Sequence[RewardedSample]) -> Sequence[Score]:
        size = self._settings.batch_size
        parts = [samples[start : start + size] for start in range(0, len(samples), size)]
        return self._endpoint.ask_all(self._judge, parts, [len(part) for part in parts])

    def _judge(self, samples: Sequence[RewardedSample]) -> list[Score]:
        parts = [answer_parts(self._tokenizer, sample, self._settings.granularity) for sample in samples]
        sequences = [self._sequence(sample, *part) for sample, part in zip(samples, parts, strict=True)]
        reply = self._endpoint.request(self._url, {"sequences": sequences})
        scores = reply.get("scores") if isinstance(reply, dict) else None
        if not isinstance(scores, list) or len(scores) != len(samples):
            given = f"{len(scores)} scores" if isinstance(scores, list) else "no list 'scores'"
            raise Refused(f"{self._url}: gave {given} for {len(samples)} answers")
        errors = reply.get("errors")
        reasons = errors if isinstance(errors, dict) else {}
        return [
            self._score(score, points, reasons.get(str(number), "no score"))
            for number, (score, (_, points)) in enumerate(zip(scores, parts, strict=True))
        ]

    def _score(self, given: Any, points: Sequence[int], reason: str) -> Score:
        if given is None:
            return Failed(f"{self._url}: {reason}")
        if not self._in_sentences:
            return given
        if not isinstance(given, list) or len(given) != len(points):
            what = f"{len(given)} scores" if isinstance(given, list) else f"{given!r}, no list,"
            return Failed(f"{self._url}: gave {what} for an answer of {len(points)} sentences")
        return list(zip(points, given, strict=True))

    def _sequence(self, sample: RewardedSample, ends: list[int], points: list[int]) -> dict[str, Any]:
        if self._settings.send == "tokens":
            tokens = {"prompt_tokens": sample.prompt_tokens, "answer_tokens": sample.answer_tokens}
            return tokens | ({"points": points} if self._in_sentences else {})
        text: dict[str, Any] = {"prompt": sample.prompt, "answer": sample.answer, "finished": sample.finished}
        if self._in_sentences:
            text["ends"] = ends
        messages = sample.columns.get("messages")
        return text if messages is None else text | {"messages": messages}
