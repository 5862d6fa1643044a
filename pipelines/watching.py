"""Following a run on a server to its end: a line when a step changes, or a table that lives on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from compose_rl.errors import TransientError
from compose_rl.progress import duration

__all__ = ["Watch", "follow"]

POLL_SECONDS = 5.0
PATIENCE_SECONDS = 600.0
"""How long the server may be away while a run goes on."""
ENDED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}


@dataclass
class Watch:
    """A run as far as it was seen."""

    names: Mapping[str, str]
    """The step's name by the task's, of those that count."""
    state: str = "PENDING"
    steps: dict[str, tuple[str, float]] = field(default_factory=dict)
    """State and seconds so far by step, in the order in which they began."""
    terminated: bool = False
    """Somebody ended it. KFP 2.17 calls such a run failed; its history alone says that it was canceled."""

    def update(self, run: Any) -> list[str]:
        """Take in what the server says of the run; the steps that changed."""
        details = run.run_details.task_details if run.run_details else None
        # A task without a state was never reached, though it has times.
        seen = [task for task in details or [] if task.display_name in self.names and task.state]
        changed: list[str] = []
        for task in sorted(seen, key=lambda task: task.start_time):
            name = self.names[task.display_name]
            end = task.end_time if task.state in ENDED else datetime.now(task.start_time.tzinfo)
            seconds = max(0.0, (end - task.start_time).total_seconds())
            if self.steps.get(name, ("", 0.0))[0] != task.state:
                changed.append(name)
            self.steps[name] = (task.state, seconds)
        self.state = run.state or self.state
        states = {self.state, *(past.state for past in run.state_history or [])}
        self.terminated = self.terminated or not states.isdisjoint({"CANCELING", "CANCELED"})
        return changed

    @property
    def failed(self) -> list[str]:
        """The steps that failed."""
        return [name for name, (state, _) in self.steps.items() if state == "FAILED"]


def follow(get: Callable[[], Any], watch: Watch, console: Console) -> None:
    """Show the run until it has ended.

    Args:
        get: asks the server for the run.

    Raises:
        TransientError: the server was away for too long; the run goes on.
    """
    if not console.is_terminal:
        for name in chain.from_iterable(_changes(get, watch)):
            state, seconds = watch.steps[name]
            took = f" ({duration(seconds)})" if state in ENDED else ""
            console.print(f"{name}: {state.lower()}{took}", soft_wrap=True)
        return
    with Live(console=console, refresh_per_second=2) as live:
        for _ in _changes(get, watch):
            live.update(_table(watch))


def _changes(get: Callable[[], Any], watch: Watch) -> Iterator[list[str]]:
    """The steps that have changed, at each look, until the run has ended."""
    while True:
        yield watch.update(_patiently(get))
        if watch.state in ENDED:
            return
        time.sleep(POLL_SECONDS)


def _patiently(get: Callable[[], Any]) -> Any:
    begun = time.monotonic()
    while True:
        try:
            return get()
        except TransientError:
            if time.monotonic() - begun > PATIENCE_SECONDS:
                raise
            time.sleep(POLL_SECONDS)


def _table(watch: Watch) -> Table:
    table = Table("step", "state", "time", title="Steps", title_justify="left")
    table.columns[2].justify = "right"
    for name, (state, seconds) in watch.steps.items():
        table.add_row(name, state.lower(), duration(seconds))
    return table
