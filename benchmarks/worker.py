"""The side of a benchmark that does the work: answers commands on stdin with a line of JSON on stdout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Channel", "peak_mib", "reset_peak", "resident_mib"]


class Channel:
    """A line per command in, a line of JSON per answer out; whatever else the process prints goes to
    stderr.
    """

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def receive(self) -> str:
        """The next command; an empty string when the other side has gone."""
        return sys.stdin.readline().strip()

    def send(self, **answer: Any) -> None:
        self._out.write(json.dumps(answer) + "\n")
        self._out.flush()

    def serve(self, commands: dict[str, Callable[[], dict[str, Any]]]) -> None:
        """Answer commands until the other side says quit."""
        while (name := self.receive()) not in ("quit", ""):
            self.send(**commands[name]())


def _status_mib(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise KeyError(field)


def resident_mib() -> float:
    """Memory this process holds now."""
    return _status_mib("VmRSS")


def peak_mib() -> float:
    """The most memory this process held since its start or the last `reset_peak`."""
    return _status_mib("VmHWM")


def reset_peak() -> None:
    """Start the peak afresh, so that it is that of what follows (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")
