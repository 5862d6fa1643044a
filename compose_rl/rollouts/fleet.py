"""The servers of a generation: each reached when it is there, all asked at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from compose_rl.errors import TransientError, UserError
from compose_rl.rollouts.connection import Connection, ServerLost
from compose_rl.rollouts.places import Servers

__all__ = ["FAILURES", "Fleet"]

FAILURES = 3
"""Requests in a row that may fail at a server before it is left out."""
_PAUSE = 0.2
"""Seconds between two looks at a server that does not answer."""


class Fleet:
    """Servers, wherever they are.

    Args:
        request_timeout: seconds that a server has for a request.
        say: is told what happens to servers.
    """

    def __init__(self, servers: Servers, request_timeout: float, say: Callable[[str], None]) -> None:
        self.servers = servers
        self._request_timeout = request_timeout
        self._say = say

    def reach(
        self, index: int, over: Callable[[], bool] = lambda: False
    ) -> tuple[Connection, dict[str, Any]]:
        """The server and its health, waiting for one that starts.

        Raises:
            UserError: it is something else than a rollout server, or cannot be started.
            TransientError: it does not come.
        """
        deadline = time.monotonic() + self.servers.start_timeout
        while True:
            server = Connection(self.servers.url(index), self._request_timeout)
            try:
                return server, _checked(server.health(), server.url)
            except ServerLost as error:
                if over() or time.monotonic() > deadline:
                    raise TransientError(
                        f"rollout server {index}: not there after"
                        f" {self.servers.start_timeout:.0f} s ({error})"
                    ) from None
            time.sleep(_PAUSE)

    def each(self, call: Callable[[int], Any]) -> list[Any]:
        """What ``call`` gives for the servers that answer, of which there must be one.

        Raises:
            UserError: a server refuses.
            TransientError: there is none.
        """

        def attempt(index: int) -> Any:
            lost: Exception | None = None
            for _ in range(FAILURES):
                try:
                    return call(index)
                except ServerLost as error:
                    lost = TransientError(f"rollout server {index}: {error}")
                    time.sleep(_PAUSE)
                except TransientError as error:
                    lost = error
                    break
            self._say(f"rollout server {index} is lost ({lost})")
            return lost

        with ThreadPoolExecutor(self.servers.count) as pool:
            found = list(pool.map(attempt, range(self.servers.count)))
        there = [one for one in found if not isinstance(one, TransientError)]
        if not there:
            raise found[0]
        return there


def _checked(health: dict[str, Any], url: str) -> dict[str, Any]:
    missing = {"version", "vocab_size", "max_length"} - set(health)
    if missing:
        raise UserError(
            f"engine.urls: {url}: /health does not say {sorted(missing)[0]}; it is no rollout server"
        )
    return health
