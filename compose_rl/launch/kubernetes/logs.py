"""A pod's output, as it comes, whatever the connection does: no line is lost and none is shown twice."""

from __future__ import annotations

import re
import threading
from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime, timedelta

from compose_rl.errors import TransientError, UserError
from compose_rl.launch.kubernetes.api import Api, Invalid, NotFound, Unavailable

__all__ = ["TAIL_LINES", "LogStream", "Seam"]

TAIL_LINES = 30
"""Kept of every log."""
_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between connections that bring nothing."""
_LAST_TRIES = 4
"""Connections that fail after the container's end before the rest is given up."""
_STAMPED = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d) ?(.*)", re.DOTALL)


class Seam:
    """Joins the parts of a log that several connections brought."""

    def __init__(self) -> None:
        self._recent: Counter[str] = Counter()
        """Lines, with their stamps, of the time that the next connection brings again."""
        self._again: Counter[str] = Counter()
        self._latest: datetime | None = None

    @property
    def since(self) -> str | None:
        """From when a new connection has to start: a whole second, for Kubernetes knows no others."""
        if self._latest is None:
            return None
        # Two streams of a container are written side by side, so stamps need not rise.
        return (self._latest - timedelta(seconds=1)).isoformat()

    def connected(self) -> None:
        """A new connection starts at :attr:`since`."""
        self._again = Counter(self._recent)

    def text(self, line: str) -> str | None:
        """The line without its stamp; None for one that was there before, or that is not the container's."""
        parsed = _parsed(line)
        if parsed is None:
            return None
        if self._again[line] > 0:
            self._again[line] -= 1
            return None
        second, text = parsed
        if self._latest is None or second > self._latest:
            self._latest = second
            self._forget(before=second - timedelta(seconds=1))
        self._recent[line] += 1
        return text

    def _forget(self, before: datetime) -> None:
        for line in list(self._recent):
            parsed = _parsed(line)
            if parsed is None or parsed[0] < before:
                del self._recent[line]


def _parsed(line: str) -> tuple[datetime, str] | None:
    """The second and the text of a line; None for what the node itself has to say about a log."""
    found = _STAMPED.fullmatch(line)
    if found is None:
        return None
    return datetime.fromisoformat(found[1] + found[2].replace("Z", "+00:00")), found[3]


class LogStream(threading.Thread):
    """Shows a container's log from a thread, until the container has ended and all is shown."""

    def __init__(
        self, api: Api, pod: str, container: str, out: Callable[[str], None], *, tail_lines: int | None = None
    ) -> None:
        """
        Args:
            tail_lines: start that many lines before the end; None: at the beginning.
        """
        super().__init__(name=f"log-{pod}", daemon=True)
        self._api, self.pod, self._container, self._out = api, pod, container, out
        self._tail_lines = tail_lines
        self._ended = threading.Event()
        self._seam = Seam()
        self.last: deque[str] = deque(maxlen=TAIL_LINES)
        """Its last lines."""

    def container_ended(self) -> None:
        """There is nothing more to follow, only a rest to show."""
        self._ended.set()

    @property
    def ending(self) -> bool:
        """The container has ended."""
        return self._ended.is_set()

    def run(self) -> None:
        idle = 0
        while not self._api.closed.is_set():
            final = self._ended.is_set()
            shown = self._connect(follow=not final)
            if shown is None or (final and (shown >= 0 or idle >= _LAST_TRIES)):
                return
            idle = 0 if shown > 0 else idle + 1
            self._ended.wait(_PAUSES[min(idle, len(_PAUSES) - 1)])
            if final:
                self._api.closed.wait(_PAUSES[min(idle, len(_PAUSES) - 1)])

    def _connect(self, *, follow: bool) -> int | None:
        """How many lines came; -1 when there was no connection, None when the pod is gone."""
        shown, since = 0, self._seam.since
        self._seam.connected()
        try:
            for line in self._api.log(
                self.pod,
                self._container,
                follow=follow,
                since_time=since,
                tail_lines=self._tail_lines if since is None else None,
            ):
                text = self._seam.text(line)
                if text is not None:
                    shown += 1
                    self.last.append(text)
                    self._out(text)
        except NotFound:
            return None
        except Invalid:  # not started yet, or it never was
            return -1 if follow else None
        except (Unavailable, UserError, TransientError):
            return -1
        return shown
