"""Curves as a file of JSON lines, whole even when training was resumed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from composer.core import State
from composer.loggers import Logger, LoggerDestination
from composer.utils import dist

__all__ = ["CurvesLogger"]


class CurvesLogger(LoggerDestination):
    """Writes a line per step and per evaluation to ``path``.

    ``{"batch": 12, "epoch": 0, "tokens": 1234, "seconds": 3.2, "metrics": {"loss/train/total": 0.69}}``;
    ``batch`` counts steps done. The lines are part of the training state: an attempt that resumes begins with
    those of the attempt before it, up to its checkpoint.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.lines: list[dict[str, Any]] = []
        self.last: dict[str, float] = {}
        """The newest value of each metric."""
        self._pending: dict[str, float] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            # Composer's time/ metrics repeat what stands in each line.
            if not name.startswith(("time/", "trainer/")) and math.isfinite(number := float(value)):
                self._pending[name] = number

    def fit_start(self, state: State, logger: Logger) -> None:
        if dist.get_global_rank() == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("".join(map(_json_line, self.lines)))

    def batch_end(self, state: State, logger: Logger) -> None:
        self._flush(state)

    def eval_after_all(self, state: State, logger: Logger) -> None:
        self._flush(state)

    def _flush(self, state: State) -> None:
        if not self._pending:
            return
        line = {
            "batch": int(state.timestamp.batch),
            "epoch": int(state.timestamp.epoch),
            "tokens": int(state.timestamp.token),
            "seconds": round(state.timestamp.total_wct.total_seconds(), 3)
            if state.timestamp.total_wct
            else 0.0,
            "metrics": self._pending,
        }
        self.lines.append(line)
        self.last.update(self._pending)
        self._pending = {}
        if dist.get_global_rank() == 0 and self.path.parent.is_dir():
            with self.path.open("a") as file:
                file.write(_json_line(line))

    def state_dict(self) -> dict[str, Any]:
        # One value, since sharded states are read into the shape of what is there: no lines yet.
        return {"json": json.dumps({"lines": self.lines, "last": self.last})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        saved = json.loads(state["json"])
        self.lines, self.last = saved["lines"], saved["last"]


def _json_line(line: dict[str, Any]) -> str:
    return json.dumps(line) + "\n"
