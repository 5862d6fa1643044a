"""When a job has to leave before its work is done: no launcher wants it any more, or it was told to stop.

A stage's process watches in a thread, so that it hears of it even while all else waits for other processes.
A stage that can save its state does so and ends by itself (:meth:`Leave.ends_itself`); others are ended at
once.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Generator
from types import FrameType

from compose_rl.errors import TransientError, UserError
from compose_rl.store.leases import Leases, renewal_seconds

__all__ = ["LEAVE", "SAVE_AND_LEAVE", "Leave", "heed_signals", "watch_leases", "watch_signals"]

SAVE_AND_LEAVE = signal.SIGUSR1
"""What :mod:`compose_rl.launch.trainer` sends to processes of torchrun, which keeps SIGTERM for itself: that
ends what is left after a failure."""
_SIGNALS = (SAVE_AND_LEAVE, signal.SIGTERM)
_GRACE_SECONDS = 25.0
"""From SIGTERM to SIGKILL there are 30 s unless somebody says otherwise."""
_STORAGE_AWAY = 12
"""A storage that cannot be read for so many times ``lease_minutes`` counts as a launcher that is gone."""
_LOOK_SECONDS = 0.1


class Leave:
    """The wish that this process ends, and how much time it has for that."""

    def __init__(self) -> None:
        self.reason = ""
        """One line, once it is wanted."""
        self._wanted = threading.Event()
        self._lock = threading.Lock()
        self._limit = math.inf
        self._willing = 0
        self._saving = 0

    @property
    def wanted(self) -> bool:
        """The process should end."""
        return self._wanted.is_set()

    def request(self, reason: str, seconds: float) -> None:
        """Ask the process to end; the first reason counts.

        Args:
            seconds: what a stage that ends by itself has for it.
        """
        with self._lock:
            if not self.wanted:
                self.reason, self._limit = reason, time.monotonic() + seconds
                self._wanted.set()

    @contextlib.contextmanager
    def ends_itself(self, *, saving: bool = False) -> Generator[None]:
        """Inside, the process sees to ending by itself, within the time that the request gives.

        Args:
            saving: it is about to be done; no limit.
        """
        self._willing, self._saving = self._willing + 1, self._saving + saving
        try:
            yield
        finally:
            self._willing, self._saving = self._willing - 1, self._saving - saving

    @property
    def overdue(self) -> bool:
        """It is wanted, and the process will not, or did not, end by itself."""
        late = not self._saving and time.monotonic() > self._limit
        return self.wanted and (not self._willing or late)


LEAVE = Leave()
"""Of this process: signals come to a process, and Composer's callbacks are made by name."""


@contextlib.contextmanager
def watch_signals(leave: Leave, end: Callable[[], None]) -> Generator[None]:
    """Take signals for a wish to leave, and call ``end`` (in a thread) when that is overdue.

    A Python handler would wait for the main thread, which may wait for another process; the byte that the
    interpreter writes for each signal does not.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            if select.select([read], [], [], _LOOK_SECONDS)[0] and set(os.read(read, 64)) & set(_ours()):
                leave.request("told to stop (SIGTERM)", grace_seconds())
            if leave.overdue:
                end()

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    _take_signals()
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
    thread = threading.Thread(target=watch, name="leave", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read)
        os.close(write)


def heed_signals() -> None:
    """Take back the signals that are watched: Composer, when it is imported, makes SIGTERM an exception."""
    if signal.getsignal(SAVE_AND_LEAVE) is _heard:
        _take_signals()


def _take_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, _heard if number in _ours() else signal.SIG_DFL)


def _ours() -> tuple[signal.Signals, ...]:
    return (SAVE_AND_LEAVE,) if "TORCHELASTIC_RUN_ID" in os.environ else _SIGNALS


def _heard(number: int, frame: FrameType | None) -> None:
    """Nothing: the thread has been told."""


def _before_fork() -> None:
    """A worker's signal must not come while it still has its parent's handlers."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _after_in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _after_in_child() -> None:
    """A forked process (a worker of a data loader) has the handlers, and would speak for its parent."""
    for number in _SIGNALS:
        if signal.getsignal(number) is _heard:
            signal.set_wakeup_fd(-1)
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def grace_seconds() -> float:
    """From the signal to the kill: ``COMPOSE_RL_GRACE_SECONDS``."""
    return float(os.environ.get("COMPOSE_RL_GRACE_SECONDS", _GRACE_SECONDS))


@contextlib.contextmanager
def watch_leases(leases: Leases, lease_minutes: float | None, leave: Leave) -> Generator[None]:
    """Want to leave when no lease changed for ``lease_minutes``, by this process's own clock.

    Args:
        lease_minutes: None: there are no leases, nothing is watched.
    """
    if lease_minutes is None:
        yield
        return
    done = threading.Event()
    thread = threading.Thread(
        target=_watch_leases, args=(leases, lease_minutes, leave, done), name="leases", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        done.set()


def _watch_leases(leases: Leases, lease_minutes: float, leave: Leave, done: threading.Event) -> None:
    limit = lease_minutes * 60
    held: dict[str, bytes] | None = None
    changed = reached = time.monotonic()
    away = False
    while not done.wait(renewal_seconds(lease_minutes)):
        try:
            found = leases.snapshot()
        except (UserError, TransientError) as error:
            # Storage that is away is away for launchers too: it says nothing about them.
            away = True
            if time.monotonic() - reached > _STORAGE_AWAY * limit:
                leave.request(f"the leases cannot be read ({error})", limit)
            continue
        now = time.monotonic()
        if away or found != held:
            changed = now
        held, reached, away = found, now, False
        if now - changed > limit:
            leave.request(
                f"no launcher holds this job any more (no lease was renewed for {lease_minutes:g} minutes)",
                limit,
            )
            return
