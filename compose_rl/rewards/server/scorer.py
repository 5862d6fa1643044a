"""A reward model that many ask at a time: what waits is scored together."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from typing import Any

from compose_rl.rewards.reward_model.points import Scored, score_points
from compose_rl.rewards.reward_model.reading import answer_tokens, prompt_tokens
from compose_rl.rewards.reward_model.sentences import token_ends
from compose_rl.rewards.types import Failed

__all__ = ["BadRequest", "Scorer"]


class BadRequest(Exception):  # noqa: N818 (what it is)
    """A request that makes no sense; the message says why."""


Found = list[list[float] | Failed]


class Scorer:
    """One thread runs the model; each of its passes takes all requests that have come."""

    def __init__(self, model: Any, tokenizer: Any, token_budget: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._budget = token_budget
        config = getattr(model.config, "base_config", model.config)
        self._vocabulary: int = config.vocab_size
        self._waiting: queue.SimpleQueue[tuple[list[Scored], Future[Found]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="scorer", daemon=True).start()

    def score(self, sequences: Any) -> dict[str, Any]:
        """``scores`` of a request's sequences, null for one that is too long, and ``errors`` that say so.

        A sequence has ``answer_tokens`` and ``prompt_tokens``, or ``answer`` and ``prompt`` (texts). Its
        score is a number, that of the whole; a list where it says where parts of the answer end: ``points``,
        indices of its tokens, or ``ends``, places in its text.

        Raises:
            BadRequest: not a list of sequences.
        """
        if not isinstance(sequences, list):
            raise BadRequest("'sequences' is missing, or no list")
        scored = [self._read(number, sequence) for number, sequence in enumerate(sequences)]
        answered: Future[Found] = Future()
        self._waiting.put((scored, answered))
        scores: list[float | list[float] | None] = []
        errors: dict[str, str] = {}
        for number, (sequence, found) in enumerate(zip(sequences, answered.result(), strict=True)):
            if isinstance(found, Failed):
                errors[str(number)] = found.reason
                scores.append(None)
            else:
                scores.append(found if _in_parts(sequence) else found[0])
        return {"scores": scores, "errors": errors}

    def _read(self, number: int, sequence: Any) -> Scored:
        try:
            if "answer_tokens" in sequence:
                prompt, answer = tuple(sequence["prompt_tokens"]), tuple(sequence["answer_tokens"])
                points = _places(sequence, "points", len(answer) - 1)
            else:
                finished = bool(sequence.get("finished", True))
                prompt = prompt_tokens(self._tokenizer, sequence["prompt"], sequence.get("messages"))
                answer = answer_tokens(self._tokenizer, sequence["answer"], finished)
                ends = _places(sequence, "ends", len(sequence["answer"]))
                points = ends and token_ends(self._tokenizer, answer, ends)
        except Exception as error:
            # Templates raise whatever they like.
            raise BadRequest(f"sequence {number}: {type(error).__name__}: {error}") from None
        if not answer:
            raise BadRequest(f"sequence {number} has an empty answer")
        for token in (*prompt, *answer):
            if type(token) is not int or not 0 <= token < self._vocabulary:
                raise BadRequest(f"sequence {number}: token {token!r} is not in 0..{self._vocabulary - 1}")
        return Scored(prompt, answer, tuple(points or [len(answer) - 1]))

    def _work(self) -> None:
        while True:
            requests = [self._waiting.get()]
            while not self._waiting.empty():
                requests.append(self._waiting.get())
            try:
                found = iter(score_points(self._model, [s for r, _ in requests for s in r], self._budget))
                for scored, answered in requests:
                    answered.set_result([next(found) for _ in scored])
            except Exception as error:
                for _, answered in requests:
                    if not answered.done():
                        answered.set_exception(error)


def _in_parts(sequence: Any) -> bool:
    return "points" in sequence or "ends" in sequence


def _places(sequence: Any, name: str, last: int) -> list[int] | None:
    """What a sequence says of where parts of its answer end, if it does: in order, at most ``last``."""
    if name not in sequence:
        return None
    places = sequence[name]
    if not isinstance(places, list) or not places:
        raise ValueError(f"{name}={places!r} is no list of whole numbers")
    for before, place in zip([0, *places], places, strict=False):
        if type(place) is not int or not before <= place <= last:
            raise ValueError(f"{name}={places}: {place!r} is not in {before}..{last}")
    return places
