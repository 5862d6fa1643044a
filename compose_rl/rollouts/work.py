"""Parts of a generation, which workers take and give back."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from compose_rl.rollouts.types import Completion, Request

__all__ = ["Work", "split"]

Completions = list[list[Completion]]


def split(requests: Sequence[Request], parts: int) -> list[range]:
    """Indices of requests in at most ``parts`` runs with about as many answers each."""
    counts = [len(request.seeds) for request in requests]
    size = sum(counts) / max(parts, 1)
    runs: list[range] = []
    start, held = 0, 0
    for index, count in enumerate(counts):
        held += count
        if held >= size * (len(runs) + 1) or index == len(counts) - 1:
            runs.append(range(start, index + 1))
            start = index + 1
    return runs


class Work:
    """What is left of a generation; every method may be called from any thread."""

    def __init__(self, parts: Sequence[range]) -> None:
        self.results: dict[int, Completions] = {}
        """By a part's first request."""
        self.failure: BaseException | None = None
        """What ended it."""
        self._news = threading.Condition()
        self._waiting = deque(parts)
        self._left = len(parts)
        self._workers = 0

    @property
    def over(self) -> bool:
        return self.failure is not None or not self._left

    def take(self) -> range | None:
        """The next part, when there is one; None: there is nothing left to do."""
        with self._news:
            self._news.wait_for(lambda: self._waiting or self.over)
            return None if self.over else self._waiting.popleft()

    def give_back(self, part: range) -> None:
        with self._news:
            self._waiting.appendleft(part)
            self._news.notify_all()

    def finish(self, part: range, result: Completions) -> None:
        with self._news:
            self.results[part.start] = result
            self._left -= 1
            self._news.notify_all()

    def fail(self, error: BaseException) -> None:
        """End it all."""
        with self._news:
            self.failure = self.failure or error
            self._news.notify_all()

    def begin_worker(self) -> None:
        with self._news:
            self._workers += 1

    def end_worker(self, error: BaseException | None) -> None:
        """A worker leaves; the last one's ``error`` ends what is left."""
        with self._news:
            self._workers -= 1
            if not self._workers and not self.over:
                self.failure = error
            self._news.notify_all()

    def wait_until_over(self, seconds: float) -> bool:
        """Wait at most ``seconds``; whether it is over."""
        with self._news:
            return self._news.wait_for(lambda: self.over, seconds)

    def wait_for_news(self, known: int) -> int:
        """Wait until more than ``known`` parts have come, or it is over; the number of parts that have."""
        with self._news:
            self._news.wait_for(lambda: len(self.results) > known or self.over)
            return len(self.results)
