"""What a finished run shows: its steps, what they found, its report."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from compose_rl.store import join
from compose_rl.store.manifest import Manifest
from pipelines.local_runner import StepRun

__all__ = ["show"]

REPORT = "report.html"
WITHOUT_FINDINGS = ("resolve", "export")
"""Stages whose metrics only describe files."""


def show(steps: Iterable[StepRun], console: Console | None = None) -> None:
    """Print a table of the steps, the figures of the last one that has some, and where its report is."""
    console = console or Console(highlight=False)
    steps = list(steps)
    console.print(_times(steps))
    manifests = [step.manifest for step in steps if step.manifest is not None]
    found = [m for m in manifests if m.metrics and m.stage not in WITHOUT_FINDINGS]
    if found:
        console.print(_figures(found[-1]))
    for manifest in manifests:
        if REPORT in _files(manifest):
            console.print(f"Report: {join(manifest.output('report').uri, REPORT)}", soft_wrap=True)


def _times(steps: list[StepRun]) -> Table:
    table = Table("step", "result", "seconds", title="Steps", title_justify="left", show_footer=True)
    table.columns[0].footer = "all"
    table.columns[2].footer = f"{sum(step.seconds for step in steps):.1f}"
    table.columns[2].justify = "right"
    for step in steps:
        table.add_row(step.name, step.state, f"{step.seconds:.1f}")
    return table


def _figures(manifest: Manifest) -> Table:
    table = Table(title=manifest.stage, title_justify="left", show_header=False)
    for row in _rows(manifest):
        table.add_row(*row)
    return table


def _rows(manifest: Manifest) -> list[tuple[str, str]]:
    if manifest.stage == "evaluate":
        # Light, but it lies with the heavy code whose figures it words.
        from compose_rl.evaluation.table import headline

        return headline(manifest.metrics)
    return [(name, f"{value:.4g}") for name, value in manifest.metrics.items()]


def _files(manifest: Manifest) -> set[str]:
    output = manifest.outputs.get("report")
    return {file.path for file in output.files} if output else set()
