"""What a stage does, how far it is, how long it still needs: bars on a terminal, lines in a log."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Generator
from typing import Any, TextIO

__all__ = ["Phase", "Progress", "duration"]


def duration(seconds: float) -> str:
    """``75`` → ``1:15``; ``3700`` → ``1:01:40``."""
    minutes, second = divmod(round(max(seconds, 0)), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def _number(value: float) -> str:
    """Whole where it is whole, three digits where it is small: ``1,234``, ``0.052``, ``7.3``."""
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1 else f"{value:.3g}"


class Phase:
    """A part of a stage's work. ``advance`` is cheap and may be called from any thread."""

    def __init__(self, progress: Progress, name: str, total: float | None, unit: str) -> None:
        self.name = name
        self.total = total
        self.unit = unit
        self.done: float = 0
        self.started = time.monotonic()
        self._progress = progress
        self._note = ""
        self._next = self.started + progress.interval

    def advance(self, n: float = 1, note: str = "") -> None:
        """``n`` more units are done. ``note``: a few words to show with it (a loss, a file's name)."""
        with self._progress.lock:
            self.done += n
            if note:
                self._note = note
            now = time.monotonic()
            if now >= self._next:
                self._next = now + self._progress.interval
                self._progress.show(self)

    def text(self) -> str:
        """The present state: done, total, rate, time left."""
        seconds = time.monotonic() - self.started
        rate = self.done / seconds if seconds > 0 else 0.0
        total = "" if self.total is None else f"/{_number(self.total)}"
        parts = [f"{_number(self.done)}{total} {self.unit}".rstrip(), f"{_number(rate)}/s"]
        if self.total is not None and rate > 0:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        return ", ".join([*parts, self._note] if self._note else parts)


class Progress:
    """Phases of one stage, shown on ``stream``.

    Args:
        prefix: stands in front of every line, usually the stage's name.
        stream: stderr by default; bars where it is a terminal.
        interval: seconds between two lines of a phase in a log (bars refresh faster).
    """

    def __init__(
        self, prefix: str = "", *, stream: TextIO | None = None, interval: float = 5.0, quiet: bool = False
    ) -> None:
        self.prefix = prefix
        self.lock = threading.RLock()
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._terminal = not quiet and self._stream.isatty()
        self.interval = 0.1 if self._terminal else interval
        self._bars: Any = None
        self._tasks: dict[Phase, Any] = {}

    @contextlib.contextmanager
    def phase(
        self, name: str, total: float | None = None, unit: str = "", *, brief: bool = False
    ) -> Generator[Phase]:
        """Do a part of the work: ``with progress.phase("tokenize", total=1000, unit="rows") as phase:``.

        Args:
            brief: it comes again and again: in a log, no line says that it begins and ends.
        """
        phase = Phase(self, name, total, unit)
        brief = brief and not self._terminal
        if not brief:
            self._open(phase)
        failed = True
        try:
            yield phase
            failed = False
        finally:
            if not brief:
                self._close(phase, failed)

    def say(self, message: str) -> None:
        """One line of news."""
        with self.lock:
            if self._quiet:
                return
            if self._bars is not None:
                self._bars.console.print(self._line(message), highlight=False, markup=False)
            else:
                print(self._line(message), file=self._stream, flush=True)

    def show(self, phase: Phase) -> None:
        """Bring what is shown of ``phase`` up to date."""
        if self._bars is not None:
            self._bars.update(self._tasks[phase], completed=phase.done, total=phase.total, text=phase.text())
        else:
            self.say(f"{phase.name}: {phase.text()}")

    def _line(self, message: str) -> str:
        return f"{self.prefix}: {message}" if self.prefix else message

    def _open(self, phase: Phase) -> None:
        with self.lock:
            if not self._terminal:
                self.say(f"{phase.name} …")
                return
            if self._bars is None:
                self._bars = _bars(self._stream)
                self._bars.start()
            self._tasks[phase] = self._bars.add_task(self._line(phase.name), total=phase.total, text="")

    def _close(self, phase: Phase, failed: bool) -> None:
        with self.lock:
            seconds = time.monotonic() - phase.started
            outcome = "stopped" if failed else "done"
            text = f"{phase.name}: {outcome} in {duration(seconds)}"
            if phase.done:
                text += f" ({_number(phase.done)} {phase.unit}".rstrip() + ")"
            if self._bars is not None:
                self._bars.remove_task(self._tasks.pop(phase))
            self.say(text)
            if self._bars is not None and not self._tasks:
                self._bars.stop()
                self._bars = None


def _bars(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[text]}"),
    )
    return Bars(*columns, console=Console(file=stream), transient=True)
