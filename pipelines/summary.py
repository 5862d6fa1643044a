"""What a finished run shows: its steps, its figures, its report."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from compose_rl.store import join
from pipelines.local_runner import StepRun

__all__ = ["show"]

REPORT = "report.html"


def show(steps: Iterable[StepRun], console: Console | None = None) -> None:
    """Print a table of the steps, the figures of those that report, and where the reports are."""
    console = console or Console(highlight=False)
    steps = list(steps)
    console.print(_times(steps))
    for step in steps:
        report = _report(step)
        if report is not None and step.manifest is not None:
            console.print(_figures(step.name, step.manifest.metrics))
            console.print(f"Report: {report}", soft_wrap=True)


def _times(steps: list[StepRun]) -> Table:
    table = Table("step", "result", "seconds", show_footer=True)
    table.columns[0].footer = "all"
    table.columns[2].footer = f"{sum(step.seconds for step in steps):.1f}"
    table.columns[2].justify = "right"
    for step in steps:
        table.add_row(step.name, step.state, f"{step.seconds:.1f}")
    return table


def _figures(name: str, metrics: dict[str, float]) -> Table:
    table = Table(name, "")
    table.columns[1].justify = "right"
    for metric, value in metrics.items():
        table.add_row(metric, f"{value:.4g}")
    return table


def _report(step: StepRun) -> str | None:
    """The page that the step wrote, if it wrote one."""
    output = step.manifest.outputs.get("report") if step.manifest else None
    if output is None or REPORT not in {file.path for file in output.files}:
        return None
    return join(output.uri, REPORT)
