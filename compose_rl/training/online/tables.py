"""Answers of an iteration for whoever looks at a run in MLflow, W&B or TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from composer.loggers import Logger, TensorboardLogger

from compose_rl.training.online.figures import SAMPLE_COLUMNS

__all__ = ["log_samples"]


def log_samples(logger: Logger, lines: Sequence[Mapping[str, Any]], iteration: int) -> None:
    """Log the lines of :func:`compose_rl.training.online.figures.sample_lines` as a table.

    Rewards are JSON: a column of W&B's is of one type, and a lost answer's rewards are not of that of others.
    TensorBoard, which has no tables, gets them as text.
    """
    if not lines:
        return
    rows = [[json.dumps(x) if name == "rewards" else x for name, x in line.items()] for line in lines]
    logger.log_table(SAMPLE_COLUMNS, rows, name=f"samples/iteration{iteration}")
    for destination in logger.destinations:
        if isinstance(destination, TensorboardLogger) and destination.writer is not None:
            destination.writer.add_text("samples", _markdown(rows), global_step=iteration)


def _markdown(rows: Sequence[Sequence[Any]]) -> str:
    table = [SAMPLE_COLUMNS, ["---"] * len(SAMPLE_COLUMNS), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in row) + " |" for row in table)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", "<br>")
