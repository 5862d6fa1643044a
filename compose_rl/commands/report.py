"""``compose-rl report``: how a run of a pipeline ended, step by step, from what its steps left behind.

As the last step of a pipeline it also leaves the jobs that the run still holds, so that none outlives it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from compose_rl.commands.executor import ExecutorInput, write_output

if TYPE_CHECKING:
    from compose_rl.store.manifest import Manifest
    from compose_rl.store.runs import StepRecord

__all__ = ["add", "figures", "markdown", "reports", "run"]

REPORT = "report.html"
WITHOUT_FINDINGS = ("resolve", "export")
"""Stages whose metrics only describe files."""


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--storage", metavar="URI", help="where the run's results are")
    parser.add_argument("--run", metavar="ID", help="the run's id")
    parser.add_argument(
        "--executor-input", metavar="JSON", help="as a pipeline's last step: what KFP puts for {{$}}"
    )


def run(arguments: argparse.Namespace) -> None:
    from compose_rl.errors import UserError

    if arguments.executor_input:
        _as_step(ExecutorInput.parse(arguments.executor_input))
    elif arguments.storage and arguments.run:
        print(_report(arguments.storage, arguments.run))
    else:
        raise UserError("report: --storage or --run is missing; give both")


def _as_step(given: ExecutorInput) -> None:
    _leave_jobs(given.parameters["storage"], given.parameters["step"])
    text = _report(given.parameters["storage"], given.parameters["run"])
    print(text)
    given.outputs["report"].write(text)
    write_output(given, {})


def _leave_jobs(storage: str, step: str) -> None:
    """Free what launchers that were killed have left behind. Where that fails, leases end the jobs."""
    from compose_rl.errors import TransientError, UserError
    from compose_rl.launch.kubernetes.api import Api
    from compose_rl.launch.kubernetes.identity import identify, in_pipeline
    from compose_rl.launch.run_end import leave_jobs
    from compose_rl.store import open_store

    if not in_pipeline():
        return
    try:
        api = Api.connect(None, None)
        identity = identify(api, namespace=api.namespace, step=step)
        for name in leave_jobs(api, open_store(storage), identity):
            print(f"left {name}")
    except (UserError, TransientError) as error:
        print(f"could not leave the run's jobs, leases will end them: {error}", file=sys.stderr)


def _report(storage: str, run: str) -> str:
    from compose_rl.errors import UserError
    from compose_rl.store import open_store
    from compose_rl.store.lineage import read_manifest
    from compose_rl.store.runs import read_run

    records = read_run(open_store(storage), run)
    if not records:
        raise UserError(f"run {run}: no step of it wrote to {storage}; check the run and the storage")
    return markdown(run, records, [read_manifest(record.manifest) for record in records if record.manifest])


def markdown(run: str, records: Sequence[StepRecord], manifests: Sequence[Manifest]) -> str:
    """The report of a run.

    Args:
        manifests: the results of the steps that have one.
    """
    from compose_rl.progress import duration

    wrong = [record for record in records if record.state in ("failed", "running")]
    lines = [
        f"# Run {run}: {'failed' if wrong else 'succeeded'}",
        "",
        "| step | result | time |",
        "|---|---|---|",
    ]
    lines += [f"| {r.step} | {r.state} | {duration(r.seconds)} |" for r in records]
    for record in wrong:
        lines += ["", f"**{record.step}**: {record.message or 'ended from outside, without a word'}"]
    found = figures(manifests)
    if found is not None:
        stage, rows = found
        lines += ["", f"| {stage} | |", "|---|---|", *(f"| {label} | {value} |" for label, value in rows)]
    lines += ["", *(f"Report: {uri}" for uri in reports(manifests))]
    return "\n".join(lines).rstrip() + "\n"


def figures(manifests: Sequence[Manifest]) -> tuple[str, list[tuple[str, str]]] | None:
    """The last stage that found something, and what, as rows of text."""
    found = [m for m in manifests if m.metrics and m.stage not in WITHOUT_FINDINGS]
    if not found:
        return None
    last = found[-1]
    if last.stage == "evaluate":
        # Light, but it lies with the heavy code whose figures it words.
        from compose_rl.evaluation.table import headline

        return last.stage, headline(last.metrics)
    return last.stage, [(name, f"{value:.4g}") for name, value in last.metrics.items()]


def reports(manifests: Sequence[Manifest]) -> list[str]:
    """Where the pages are."""
    from compose_rl.store import join

    outputs = [m.outputs["report"] for m in manifests if "report" in m.outputs]
    return [join(o.uri, REPORT) for o in outputs if REPORT in {file.path for file in o.files}]
