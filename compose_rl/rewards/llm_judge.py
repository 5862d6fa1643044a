"""``llm_judge``: a language model gives the score."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, ClassVar

from compose_rl.config.reward_types import LLMJudge as Settings
from compose_rl.rewards.building import RewardContext
from compose_rl.rewards.endpoint import Endpoint, Refused
from compose_rl.rewards.types import RewardedSample, Score

__all__ = ["LLMJudge"]

_PLACES = re.compile(r"\{(prompt|answer|reference)\}")
_OBJECT = re.compile(r"\{[^{}]*\}")


class LLMJudge:
    """Asks a chat model of OpenAI's protocol once for each answer and reads a number out of its reply."""

    batched: ClassVar[bool] = True

    def __init__(self, settings: Settings, context: RewardContext) -> None:
        """Raises UserError where the variable that holds the credential is not set."""
        self._settings = settings
        self._endpoint = Endpoint(settings)
        self._url = f"{settings.base_url}/chat/completions"

    def __call__(self, samples: Sequence[RewardedSample]) -> Sequence[Score]:
        return self._endpoint.ask_all(self._judge, samples, [1] * len(samples))

    def _judge(self, sample: RewardedSample) -> list[Score]:
        settings = self._settings
        system = [] if settings.system is None else [{"role": "system", "content": settings.system}]
        document = {
            "model": settings.model,
            "messages": [*system, {"role": "user", "content": question(settings.template, sample)}],
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
        }
        reply = self._endpoint.request(self._url, document)
        try:
            text = str(reply["choices"][0]["message"]["content"])
        except (KeyError, IndexError, TypeError):
            raise Refused(f"{self._url}: its reply has no choices[0].message.content") from None
        return [self._score(text) / settings.scale]

    def _score(self, reply: str) -> float:
        if self._settings.score_regex is not None:
            found: list[Any] = [m[1] for m in re.finditer(self._settings.score_regex, reply)]
        else:
            found = _values(reply, self._settings.score_key)
        try:
            return float(found[-1])
        except (IndexError, TypeError, ValueError):
            raise Refused(f"{self._url}: no score in the judge's reply {reply[-200:]!r}") from None


def question(template: str, sample: RewardedSample) -> str:
    """The template filled in, in one pass: braces of an answer stay what they are."""
    texts = {"prompt": sample.prompt, "answer": sample.answer, "reference": sample.reference}
    return _PLACES.sub(lambda place: texts[place[1]], template)


def _values(reply: str, key: str) -> list[Any]:
    """What stands at ``key`` in each JSON object of the reply."""
    values: list[Any] = []
    for found in _OBJECT.finditer(reply):
        try:
            document = json.loads(found[0])
        except ValueError:
            continue
        if key in document:
            values.append(document[key])
    return values
