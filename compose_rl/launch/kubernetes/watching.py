"""What a selection of objects looks like now, again after each change: a list, watched, listed again."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from compose_rl.launch.kubernetes.api import Api, Expired, Object, Resource
from compose_rl.launch.kubernetes.patience import Closed

__all__ = ["News", "Selection", "Snapshot", "snapshots", "start_watching"]

_PAUSES = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds before a list is asked for again after a watch that lived no longer than a moment."""
_MOMENT_SECONDS = 10.0


class Selection(NamedTuple):
    """Objects of one kind that match a selector."""

    resource: Resource
    labels: str | None = None
    fields: str | None = None


Snapshot = dict[str, Object]
"""Objects by name, complete."""
News = queue.SimpleQueue[tuple[str, Snapshot | Exception]]


def snapshots(api: Api, selection: Selection) -> Iterator[Snapshot]:
    """The objects now and after each change, until the api is closed.

    Raises:
        UserError: the API refuses to list or watch them.
        TransientError: its server was away for too long.
    """
    resource, labels, fields = selection
    hasty = 0
    while not api.closed.is_set():
        found, version = api.list(resource, labels, fields=fields)
        known = {each["metadata"]["name"]: each for each in found}
        yield dict(known)
        started = time.monotonic()
        with contextlib.suppress(Expired):
            for event in api.watch(resource, version, labels, fields=fields):
                if event.type == "BOOKMARK":
                    continue
                name = event.object["metadata"]["name"]
                if event.type == "DELETED":
                    known.pop(name, None)
                else:
                    known[name] = event.object
                yield dict(known)
        hasty = hasty + 1 if time.monotonic() - started < _MOMENT_SECONDS else 0
        api.closed.wait(_PAUSES[min(hasty, len(_PAUSES) - 1)])


def start_watching(api: Api, selection: Selection, tag: str, news: News) -> None:
    """Put ``(tag, snapshot)`` into a queue from a thread until the api is closed, or ``(tag, exception)``."""

    def run() -> None:
        try:
            for snapshot in snapshots(api, selection):
                news.put((tag, snapshot))
        except Closed:
            pass
        except Exception as error:  # whoever reads the queue decides what it means
            news.put((tag, error))

    threading.Thread(target=run, name=f"watch-{tag}", daemon=True).start()
