"""Generation with a Hugging Face model: all answers that are asked for, as many at a time as there are rows.

An answer that has ended leaves and the next one takes its place (continuous batching). Models whose cache
cannot be kept in rows write whole batches one after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compose_rl.rollouts.batches import decode_batches
from compose_rl.rollouts.sampling import draw, uniform_numbers
from compose_rl.rollouts.states import CachedStates, keeps_rows
from compose_rl.rollouts.types import Completion, Request, Sampling

__all__ = ["decode"]


@dataclass(frozen=True)
class _Place:
    """Where an answer belongs."""

    request: int
    number: int


def decode(
    model: nn.Module,
    requests: Sequence[Request],
    sampling: Sampling,
    *,
    rows: int,
    version: int = 0,
    done: Callable[[int], None] = lambda count: None,
) -> list[list[Completion]]:
    """Answers to each request, in order. No random state but that of the answers' seeds is used.

    Args:
        model: a causal language model of transformers or a PEFT model around one, in evaluation mode,
            gradients off.
        rows: answers that are written at once.
        done: told how many answers have come since it was last called.

    Raises:
        UserError: a logit is NaN or infinite.
    """
    wrapped = hasattr(model, "peft_config") and hasattr(model, "get_base_model")
    inner: Any = model.get_base_model() if wrapped else model
    width = max((len(request.prompt) for request in requests), default=0) + sampling.max_new_tokens
    if keeps_rows(inner, width):
        return _Decoding(model, requests, sampling, rows, width, version, done).run()
    return decode_batches(inner, requests, sampling, rows=rows, version=version, done=done)


class _Decoding:
    def __init__(
        self,
        model: nn.Module,
        requests: Sequence[Request],
        sampling: Sampling,
        rows: int,
        width: int,
        version: int,
        done: Callable[[int], None],
    ) -> None:
        self.requests, self.sampling, self.version, self.done = requests, sampling, version, done
        # Prompts of like length stand together; the longest come first, so that the end is short.
        order = sorted(range(len(requests)), key=lambda index: -len(requests[index].prompt))
        self.waiting = deque(_Place(i, n) for i in order for n in range(len(requests[i].seeds)))
        self.active: list[_Place] = []
        self.answers: dict[_Place, Completion] = {}
        self.rows = min(rows, len(self.waiting))
        limit = sampling.max_new_tokens
        device = next(model.parameters()).device
        self.states = CachedStates(model, [requests[index] for index in order], self.rows, width)
        self.stop = torch.tensor(sampling.stop, dtype=torch.long, device=device)
        whole = {"dtype": torch.long, "device": device}
        self.token = torch.zeros(self.rows, **whole)
        """The last token of each row, which the model has not seen."""
        self.position = torch.zeros(self.rows, **whole)
        self.count = torch.zeros(self.rows, **whole)
        self.numbers = torch.zeros(self.rows, limit, dtype=torch.float64, device=device)
        self.tokens = torch.zeros(self.rows, limit, **whole)
        self.logprobs = torch.zeros(self.rows, limit, device=device)

    def run(self) -> list[list[Completion]]:
        while self.waiting or self.active:
            while self.waiting and len(self.active) < self.rows:
                self._admit(self.waiting.popleft())
            ended = self._step()
            if ended:
                self._retire(ended)
        return [
            [self.answers[_Place(index, number)] for number in range(len(request.seeds))]
            for index, request in enumerate(self.requests)
        ]

    def _admit(self, place: _Place) -> None:
        row = len(self.active)
        request = self.requests[place.request]
        self.active.append(place)
        self.states.put(row, request)
        self.token[row] = request.prompt[-1]
        self.position[row] = len(request.prompt) - 1
        self.count[row] = 0
        self.numbers[row] = uniform_numbers(request.seeds[place.number], self.sampling.max_new_tokens)

    def _step(self) -> list[tuple[int, bool]]:
        """One more token for each active row; the rows that ended by it, and whether with a stop token."""
        size = len(self.active)
        rows = torch.arange(size, device=self.token.device)
        count = self.count[:size]
        logits = self.states.step(self.token[:size], self.position[:size])
        tokens, logprobs = draw(logits, self.numbers[rows, count], self.sampling)
        self.token[:size] = tokens
        self.tokens[rows, count] = tokens
        self.logprobs[rows, count] = logprobs
        self.position[:size] += 1
        count += 1
        finished = torch.isin(tokens, self.stop)
        over = finished | (count == self.sampling.max_new_tokens)
        state = zip(over.tolist(), finished.tolist(), strict=True)
        return [(row, finished) for row, (over, finished) in enumerate(state) if over]

    def _retire(self, ended: list[tuple[int, bool]]) -> None:
        for row, finished in reversed(ended):
            length = int(self.count[row])
            self.answers[self.active[row]] = Completion(
                tokens=tuple(self.tokens[row, :length].tolist()),
                logprobs=tuple(self.logprobs[row, :length].tolist()),
                finished=finished,
                version=self.version,
            )
            last = len(self.active) - 1
            if row != last:
                self._move(last, row)
            self.active.pop()
        self.done(len(ended))

    def _move(self, source: int, target: int) -> None:
        self.active[target] = self.active[source]
        self.states.move(source, target)
        own: tuple[Tensor, ...] = (
            self.token, self.position, self.count, self.numbers, self.tokens, self.logprobs
        )  # fmt: skip
        for values in own:
            values[target] = values[source]
