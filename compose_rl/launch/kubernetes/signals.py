"""Signals that end a launcher, as an exception: so that it leaves its job on whatever way it is going."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Generator
from types import FrameType

__all__ = ["Signals", "Stopped", "signals_raised"]


class Stopped(SystemExit):
    """SIGTERM or SIGINT came; the exit status is the shell's for it."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = signal.Signals(number)


class Signals:
    """Raises :class:`Stopped` at the first signal; what follows is too late to matter."""

    def __init__(self) -> None:
        self._ended = False

    def end(self) -> None:
        """From now on no signal interrupts anything."""
        self._ended = True

    def handle(self, number: int, frame: FrameType | None) -> None:
        if not self._ended:
            self._ended = True
            raise Stopped(number)


@contextlib.contextmanager
def signals_raised() -> Generator[Signals]:
    """SIGTERM and SIGINT raise meanwhile, where this is the main thread: Python handles them in no other."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, signals.handle) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
