"""Where servers are, and how a lost one comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["GivenServers", "Servers"]


class Servers(Protocol):
    count: int
    start_timeout: float
    """Seconds that a server has to come (back)."""

    def url(self, index: int) -> str:
        """Where server ``index`` is; starts it again if it has ended.

        Raises:
            UserError: it cannot be started.
            TransientError: it has ended too often.
        """
        ...

    def lost(self, index: int, url: str) -> None:
        """The server at ``url`` has failed; forgotten where another one is there by now."""
        ...

    def forgive(self) -> None:
        """Begin counting restarts anew."""
        ...

    def close(self) -> None: ...


class GivenServers:
    """Servers that someone else runs: they come back at the same address, or not at all."""

    def __init__(self, urls: Sequence[str], start_timeout: float) -> None:
        self._urls = list(urls)
        self.count = len(urls)
        self.start_timeout = start_timeout

    def url(self, index: int) -> str:
        return self._urls[index]

    def lost(self, index: int, url: str) -> None:
        pass

    def forgive(self) -> None:
        pass

    def close(self) -> None:
        """They are not ours to end."""
