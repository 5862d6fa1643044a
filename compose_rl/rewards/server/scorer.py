"""A reward model that many ask at a time: what waits is scored together."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from typing import Any

from compose_rl.rewards.reward_model.points import Scored, score_points
from compose_rl.rewards.reward_model.reading import answer_tokens, prompt_tokens

__all__ = ["BadRequest", "Scorer"]


class BadRequest(Exception):  # noqa: N818 (what it is)
    """A request that makes no sense; the message says why."""


class Scorer:
    """One thread runs the model; each of its passes takes all requests that have come."""

    def __init__(self, model: Any, tokenizer: Any, token_budget: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._budget = token_budget
        config = getattr(model.config, "base_config", model.config)
        self._vocabulary: int = config.vocab_size
        self._longest: int | None = getattr(config, "max_position_embeddings", None)
        self._waiting: queue.SimpleQueue[tuple[list[Scored], Future[list[float]]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="scorer", daemon=True).start()

    def score(self, sequences: Any) -> dict[str, Any]:
        """``scores`` of a request's sequences, null for one that is too long, and ``errors`` that say so.

        Raises:
            BadRequest: not a list of sequences.
        """
        if not isinstance(sequences, list):
            raise BadRequest("'sequences' is missing, or no list")
        scored = [self._read(number, sequence) for number, sequence in enumerate(sequences)]
        fits = [i for i, s in enumerate(scored) if self._longest is None or _length(s) <= self._longest]
        answered: Future[list[float]] = Future()
        self._waiting.put(([scored[i] for i in fits], answered))
        scores: list[float | None] = [None] * len(scored)
        for i, score in zip(fits, answered.result(), strict=True):
            scores[i] = score
        errors = {
            str(i): f"has {_length(scored[i])} tokens, and the reward model takes {self._longest}"
            for i in range(len(scored))
            if scores[i] is None
        }
        return {"scores": scores, "errors": errors}

    def _read(self, number: int, sequence: Any) -> Scored:
        try:
            if "answer_tokens" in sequence:
                prompt, answer = tuple(sequence["prompt_tokens"]), tuple(sequence["answer_tokens"])
            else:
                finished = bool(sequence.get("finished", True))
                prompt = prompt_tokens(self._tokenizer, sequence["prompt"], sequence.get("messages"))
                answer = answer_tokens(self._tokenizer, sequence["answer"], finished)
        except Exception as error:
            # Templates raise whatever they like.
            raise BadRequest(f"sequence {number}: {type(error).__name__}: {error}") from None
        if not answer:
            raise BadRequest(f"sequence {number} has an empty answer")
        for token in (*prompt, *answer):
            if type(token) is not int or not 0 <= token < self._vocabulary:
                raise BadRequest(f"sequence {number}: token {token!r} is not in 0..{self._vocabulary - 1}")
        return Scored(prompt, answer, (len(answer) - 1,))

    def _work(self) -> None:
        while True:
            requests = [self._waiting.get()]
            while not self._waiting.empty():
                requests.append(self._waiting.get())
            try:
                found = iter(score_points(self._model, [s for r, _ in requests for s in r], self._budget))
                for scored, answered in requests:
                    answered.set_result([next(found)[0] for _ in scored])
            except Exception as error:
                for _, answered in requests:
                    if not answered.done():
                        answered.set_exception(error)


def _length(scored: Scored) -> int:
    return len(scored.prompt) + len(scored.answer)
