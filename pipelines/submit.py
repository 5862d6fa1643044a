"""Runs on a Kubeflow Pipelines server: submit one and wait for its end, upload a version of a pipeline."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kfp
import yaml
from google.protobuf.json_format import ParseDict
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec
from rich.console import Console

from components.container import DEFAULT_TAG
from compose_rl.errors import StageFailed, TransientError, UserError
from compose_rl.store import open_store
from compose_rl.store.runs import StepRecord, read_run
from pipelines.checks import steps
from pipelines.server import answering, run_link
from pipelines.watching import Watch, follow

__all__ = ["add_run", "package", "reason", "submit", "upload"]


def add_run(parser: argparse.ArgumentParser) -> None:
    """The flags of a run on a server."""
    group = parser.add_argument_group("a run on the server")
    group.add_argument("--experiment", default="Default", help="default: %(default)s")
    group.add_argument("--run-name", help="default: the pipeline's name and the time")
    group.add_argument("--service-account", help="of the steps' pods; default: the server's")
    group.add_argument("--no-wait", action="store_true", help="end when the run is created")
    group.add_argument(
        "--terminate-on-interrupt",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="Ctrl-C ends the run too",
    )


@contextmanager
def package(text: str) -> Iterator[str]:
    """A compiled pipeline as a file, which is how KFP's client takes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pipeline.yaml")
        path.write_text(text, encoding="utf-8")
        yield str(path)


def submit(client: kfp.Client, text: str, values: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Create a run of a compiled pipeline, show its link, and wait for its end.

    Raises:
        StageFailed: the run failed; names the step, and why if the storage can be read from here.
        KeyboardInterrupt: Ctrl-C, after the run was terminated if that is wanted.
    """
    name = yaml.safe_load(text.split("\n---", 1)[0])["pipelineInfo"]["name"]
    with answering(options.host), package(text) as path:
        run = client.create_run_from_pipeline_package(
            path,
            arguments=dict(values),
            run_name=options.run_name or f"{name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
            experiment_name=options.experiment,
            namespace=options.namespace,
            service_account=options.service_account,
        ).run_id
    print(f"run {run}: {run_link(options.host, run)}", flush=True)
    if not options.no_wait:
        _wait(client, run, _names(text, values), values["storage"], options)


def _names(text: str, values: Mapping[str, Any]) -> dict[str, str]:
    """The name of each step by that of its task."""
    document = next(yaml.safe_load_all(text))
    return {step.task: step.name for step in steps(ParseDict(document, PipelineSpec()), values)}


def _wait(
    client: kfp.Client, run: str, names: Mapping[str, str], storage: str, options: argparse.Namespace
) -> None:
    def get() -> Any:
        with answering(options.host):
            return client.get_run(run)

    watch = Watch(names)
    try:
        follow(get, watch, Console(highlight=False))
    except KeyboardInterrupt:
        _interrupted(client, run, options)
        raise
    print(f"run {run}: {watch.state.lower()}", flush=True)
    if watch.terminated and watch.state != "SUCCEEDED":
        raise StageFailed(f"run {run} was terminated; submit it again to go on from what is done")
    if watch.state != "SUCCEEDED":
        raise StageFailed(reason(storage, run, watch.failed))


def _interrupted(client: kfp.Client, run: str, options: argparse.Namespace) -> None:
    if options.terminate_on_interrupt:
        with answering(options.host):
            client.terminate_run(run)
        print(f"terminated run {run}")
    else:
        print(f"run {run} goes on; end it in the UI: {run_link(options.host, run)}")


def reason(storage: str, run: str, failed: Sequence[str]) -> str:
    """Which step of a run failed and why, from the steps' records where the storage can be read from here.

    Args:
        failed: the steps that failed, as far as the server knows: of none that began after the Workflow had
            become so large that Argo compresses its nodes (docs/operations.md).
    """
    records: list[StepRecord] = []
    with contextlib.suppress(UserError, TransientError):
        records = read_run(open_store(storage), run)
    messages = {record.step: record.message for record in records if record.state == "failed"}
    step = next(iter([*failed, *messages]), "the run")
    return f"{step}: {messages.get(step) or 'failed; its log in the UI says why'}"


def upload(client: kfp.Client, text: str, name: str, options: argparse.Namespace) -> tuple[str, str]:
    """A new version of the pipeline of that name, which is created if it is missing; their ids."""
    version = f"{DEFAULT_TAG} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
    with answering(options.host), package(text) as path:
        pipeline = client.get_pipeline_id(name)
        if pipeline is None:
            pipeline = client.upload_pipeline(
                path, pipeline_name=name, namespace=options.namespace
            ).pipeline_id
            versions = client.list_pipeline_versions(pipeline, page_size=1, sort_by="created_at desc")
            found = versions.pipeline_versions[0]
        else:
            found = client.upload_pipeline_version(path, version, pipeline_id=pipeline)
    print(f"pipeline {name}: {found.display_name} ({found.pipeline_version_id})")
    return pipeline, found.pipeline_version_id
