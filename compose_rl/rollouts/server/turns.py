"""Who may use the engine: many answers at a time, or one who changes it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator

__all__ = ["Turns"]


class Turns:
    """Generation runs beside generation; a change waits for what runs and lets nothing begin before it."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._generating = 0
        self._changes = 0
        """That run or wait."""
        self._changing = False
        self._last = time.monotonic()

    @contextlib.contextmanager
    def generating(self) -> Generator[None]:
        with self._turn:
            self._turn.wait_for(lambda: not self._changes)
            self._generating += 1
        try:
            yield
        finally:
            with self._turn:
                self._generating -= 1
                self._last = time.monotonic()
                self._turn.notify_all()

    @contextlib.contextmanager
    def changing(self) -> Generator[None]:
        with self._turn:
            self._changes += 1
            self._turn.wait_for(lambda: not self._generating and not self._changing)
            self._changing = True
        try:
            yield
        finally:
            with self._turn:
                self._changes -= 1
                self._changing = False
                self._last = time.monotonic()
                self._turn.notify_all()

    def idle(self) -> float:
        """Seconds since the engine was last used; 0 while it is."""
        with self._turn:
            busy = self._generating or self._changes
            return 0.0 if busy else time.monotonic() - self._last
