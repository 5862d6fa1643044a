"""How far a generation is, told while servers still write."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

from compose_rl.errors import UserError
from compose_rl.rollouts.connection import Connection, ServerLost
from compose_rl.rollouts.work import Work

__all__ = ["Telling"]

_LOOK = 1.0
"""Seconds between two looks at how many answers servers have written."""


class Telling:
    """Tells ``done`` of ``total`` answers, each once: those that came, and those that servers say they wrote.

    A server's ``GET /health`` counts its answers in ``answered``; asking for fewer at a time to learn of them
    would leave its batch half empty at each part's end.
    """

    def __init__(self, done: Callable[[int], None], total: int) -> None:
        self._done = done
        self._total = total
        self._told = 0
        self._lock = threading.Lock()
        self._before: dict[str, int] = {}
        """By address: what a server had answered when it was first asked."""

    def begins(self, url: str, health: Mapping[str, Any]) -> None:
        """The server at ``url`` is asked for answers."""
        if "answered" in health:
            self._before.setdefault(url, int(health["answered"]))

    def lost(self, url: str) -> None:
        """What the server at ``url`` has not sent does not count."""
        self._before.pop(url, None)

    def up_to(self, count: int) -> None:
        """``count`` answers are there."""
        with self._lock:
            count = min(count, self._total)
            if count > self._told:
                self._done(count - self._told)
                self._told = count

    def watch(self, work: Work) -> None:
        """Ask servers now and then, until the work is over."""
        while not work.wait_until_over(_LOOK):
            written = 0
            for url, before in list(self._before.items()):
                with contextlib.suppress(ServerLost, UserError):
                    written += int(Connection(url, _LOOK).health().get("answered", before)) - before
            if not work.over:
                self.up_to(written)
