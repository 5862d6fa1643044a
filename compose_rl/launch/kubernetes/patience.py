"""Waiting for an API server that is away, overloaded or just coming up."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from compose_rl.errors import TransientError
from compose_rl.launch.kubernetes.refusals import Forbidden, NotServed, Unauthorized, Unavailable
from compose_rl.progress import duration

__all__ = ["Closed", "Outages", "Patience"]

_FIRST_SECONDS, _LONGEST_SECONDS = 0.25, 20.0
_SETTLING_SECONDS = 60.0
"""An API server that has just started may not know its roles, tokens and custom kinds yet."""
_SERVER = "server"
T = TypeVar("T")


class Closed(Exception):  # noqa: N818 (what happened to the caller's connection)
    """The caller's side was closed while a call was waiting."""


class Outages:
    """What is being waited for, told once at its start and once at its end, whoever waits. Thread-safe."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}
        self._settled = 0.0

    def began(self, what: str, reason: str, *, worth_a_line: bool) -> None:
        with self._lock:
            if what == _SERVER:
                self._settled = time.monotonic() + _SETTLING_SECONDS
            if worth_a_line and what not in self._since:
                self._since[what] = time.monotonic()
                self._say(f"waiting for the Kubernetes API: {reason}")

    def over(self, *these: str) -> None:
        with self._lock:
            for what in these:
                since = self._since.pop(what, None)
                if since is not None:
                    self._say(f"the Kubernetes API answers again, after {duration(time.monotonic() - since)}")

    def stream_broke(self) -> None:
        """The server may have been started anew, so fast that no call found it away."""
        self._settled = time.monotonic() + _SETTLING_SECONDS

    @property
    def settling(self) -> bool:
        """The server was, or may have been, away a moment ago."""
        return time.monotonic() < self._settled


class Patience:
    """Repeats calls until the server answers, for a limited time."""

    def __init__(self, seconds: float, outages: Outages) -> None:
        self.seconds = seconds
        self.outages = outages
        self.closed = threading.Event()

    def call(self, attempt: Callable[[], T], what: str) -> T:
        """What ``attempt`` returns, once it does.

        Raises:
            TransientError: it raised :class:`Unavailable` for longer than the patience.
            Closed: ``closed`` was set meanwhile.
        """
        started = time.monotonic()
        for failures in range(1_000_000):
            try:
                found = attempt()
            except Unavailable as error:
                self._wait(started, failures, error, what)
            except (Unauthorized, Forbidden, NotServed) as error:
                if not self.outages.settling:
                    raise
                self._wait(started, failures, Unavailable(str(error)), what)
            else:
                self.outages.over(_SERVER, what)
                return found
        raise AssertionError("unreachable: the patience ends first")

    def _wait(self, started: float, failures: int, error: Unavailable, what: str) -> None:
        # A single lost connection is not worth a line.
        self.outages.began(what if error.reached else _SERVER, str(error), worth_a_line=failures > 0)
        pause = min(_FIRST_SECONDS * 2 ** min(failures, 10), _LONGEST_SECONDS) * random.uniform(0.5, 1)
        pause = max(pause, error.retry_after)
        waited = time.monotonic() - started
        if waited + pause > self.seconds:
            raise TransientError(
                f"the Kubernetes API did not answer for {duration(waited)} ({error}); try again later"
            ) from error
        if self.closed.wait(pause):
            raise Closed
