"""Recurring runs: the same pipeline at fixed times.

Its first steps look at the data each time, so that unchanged data answers from the storage, and new data
trains again whatever depends on it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import kfp

from compose_rl.errors import UserError
from pipelines.server import answering
from pipelines.submit import upload
from pipelines.watching import ENDED

__all__ = ["add_schedule", "check_none_goes_on", "cron", "delete", "schedule"]

FIELDS = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of month", 1, 31),
    ("month", 1, 12),
    ("day of week", 0, 6),
)
ITEM = re.compile(r"(\*|\d+(-\d+)?)(/[1-9]\d*)?")
PAGE = 100


def add_schedule(parser: argparse.ArgumentParser) -> None:
    """The flags of a recurring run."""
    group = parser.add_argument_group("with --schedule")
    group.add_argument("--name", help="of the recurring run; default: the pipeline's")
    group.add_argument(
        "--no-catchup", action="store_true", help="leave out the times that passed while it was paused"
    )
    group.add_argument(
        "--max-concurrency", type=int, default=1, help="runs at a time, 1 to 10; default: %(default)s"
    )


def cron(text: str) -> str:
    """Five fields of cron as KFP's six, of which the first is the second.

    Raises:
        UserError: not five fields of numbers, lists, ranges and steps.
    """
    fields = text.split()
    if len(fields) != len(FIELDS):
        raise UserError(f"--schedule {text!r}: {len(fields)} fields; write five, as in '0 2 * * *'")
    for value, (name, lowest, highest) in zip(fields, FIELDS, strict=True):
        for item in value.split(","):
            numbers = [int(number) for number in re.findall(r"\d+", item.partition("/")[0])]
            within = all(lowest <= number <= highest for number in numbers)
            if not ITEM.fullmatch(item) or not within or numbers != sorted(numbers):
                raise UserError(
                    f"--schedule {text!r}: {name} is {value!r}; write {lowest} to {highest}, or *"
                )
    return f"0 {text.strip()}"


def schedule(
    client: kfp.Client, text: str, pipeline_name: str, values: Mapping[str, Any], options: argparse.Namespace
) -> None:
    """Create the recurring run, or put it in the place of those of its name.

    Raises:
        UserError: no cron expression, or a run of the one to replace goes on.
    """
    expression = cron(options.schedule)
    name = options.name or pipeline_name
    with answering(options.host):
        before = _replaceable(client, name, options)
    pipeline, version = upload(client, text, pipeline_name, options)
    with answering(options.host):
        experiment = client.create_experiment(options.experiment, namespace=options.namespace)
        made = client.create_recurring_run(
            experiment_id=experiment.experiment_id,
            job_name=name,
            cron_expression=expression,
            max_concurrency=options.max_concurrency,
            no_catchup=options.no_catchup,
            params=dict(values),
            pipeline_id=pipeline,
            version_id=version,
            service_account=options.service_account,
        )
        for old in before:
            client.delete_recurring_run(old)
    print(
        f"recurring run {name}: {options.schedule} ({made.recurring_run_id}){', replaced' if before else ''}"
    )


def delete(client: kfp.Client, name: str, options: argparse.Namespace) -> None:
    """Delete the recurring runs of a name.

    Raises:
        UserError: there is none, or one of its runs goes on.
    """
    with answering(options.host):
        found = _replaceable(client, name, options)
        for run in found:
            client.delete_recurring_run(run)
    if not found:
        raise UserError(f"--delete-schedule {name}: there is no recurring run of that name; look in the UI")
    print(f"deleted recurring run {name}")


def _replaceable(client: kfp.Client, name: str, options: argparse.Namespace) -> list[str]:
    """Ids of the recurring runs of a name, if none of their runs goes on."""
    found = _of_name(client, name, options)
    if found:
        latest = client.list_runs(page_size=PAGE, sort_by="created_at desc", namespace=options.namespace)
        check_none_goes_on(name, found, latest.runs or [])
    return found


def check_none_goes_on(name: str, recurring: Collection[str], runs: Iterable[Any]) -> None:
    """Refuse to delete recurring runs while a run of theirs goes on.

    With a recurring run KFP deletes the Workflows of its runs, and so their jobs, and goes on showing them as
    running.

    Args:
        name: of the recurring runs.
        recurring: their ids.
        runs: as KFP lists them.

    Raises:
        UserError: names the run.
    """
    for run in runs:
        state = run.state or "PENDING"
        if run.recurring_run_id in recurring and state not in ENDED:
            raise UserError(
                f"recurring run {name}: its run {run.run_id} is {state.lower()} and would be lost with it;"
                " pause it in the UI, then wait for the run's end or terminate it"
            )


def _of_name(client: kfp.Client, name: str, options: argparse.Namespace) -> list[str]:
    """Ids of the recurring runs of a name."""
    found: list[str] = []
    token = ""
    while True:
        page = client.list_recurring_runs(page_token=token, page_size=PAGE, namespace=options.namespace)
        found += [run.recurring_run_id for run in page.recurring_runs or [] if run.display_name == name]
        token = page.next_page_token
        if not token:
            return found
