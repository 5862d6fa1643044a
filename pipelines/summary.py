"""What a finished run shows: its steps, what they found, its report."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from compose_rl.commands.report import figures, reports
from pipelines.local_runner import StepRun

__all__ = ["show"]


def show(steps: Iterable[StepRun], console: Console | None = None) -> None:
    """Print a table of the steps, the figures of the last one that has some, and where its report is."""
    console = console or Console(highlight=False)
    steps = list(steps)
    console.print(_times(steps))
    manifests = [step.manifest for step in steps if step.manifest is not None]
    found = figures(manifests)
    if found is not None:
        stage, rows = found
        table = Table(title=stage, title_justify="left", show_header=False)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for uri in reports(manifests):
        console.print(f"Report: {uri}", soft_wrap=True)


def _times(steps: list[StepRun]) -> Table:
    table = Table("step", "result", "seconds", title="Steps", title_justify="left", show_footer=True)
    table.columns[0].footer = "all"
    table.columns[2].footer = f"{sum(step.seconds for step in steps):.1f}"
    table.columns[2].justify = "right"
    for step in steps:
        table.add_row(step.name, step.state, f"{step.seconds:.1f}")
    return table
