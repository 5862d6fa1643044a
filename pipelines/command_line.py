"""The command line of a pipeline: run it here, compile it for a cluster, or have a server run it."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kfp.dsl.graph_component import GraphComponent

from components.container import DEFAULT_REGISTRY, DEFAULT_TAG
from compose_rl.errors import StageFailed, TransientError, UserError
from pipelines.checks import check
from pipelines.parameters import declared, parsed, read_file, with_defaults
from pipelines.target import Target, compiled, image_references
from pipelines.wiring import STORAGE_SECRET

__all__ = ["add_target", "exiting", "main", "target"]

DEFAULT_STORAGE = "store"


def main(pipeline: GraphComponent, arguments: Sequence[str] | None = None) -> None:
    """The entry point; exits with the codes of :mod:`compose_rl.errors`."""
    options = _parser(pipeline).parse_args(arguments)
    action = next(act for name, act in ACTIONS.items() if getattr(options, name))
    exiting(lambda: action(pipeline, options))


def exiting(action: Callable[[], None]) -> None:
    """Do it; where it fails, say why in a line and exit with its code."""
    try:
        action()
    except (UserError, TransientError, StageFailed) as error:
        sys.exit(_failed(error, error.exit_code))
    except KeyboardInterrupt:
        sys.exit(130)


def _failed(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr, flush=True)
    return code


def _parser(pipeline: GraphComponent) -> argparse.ArgumentParser:
    from pipelines.schedule import add_schedule
    from pipelines.server import add_connection
    from pipelines.submit import add_run

    parser = argparse.ArgumentParser(
        description=inspect.getdoc(pipeline.pipeline_func),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--compile", action="store_true", help="write the pipeline as YAML for a KFP server")
    what.add_argument("--run", action="store_true", help="run it on this machine")
    what.add_argument("--submit", action="store_true", help="run it on a KFP server and wait for its end")
    what.add_argument("--upload", action="store_true", help="put a new version of it on a KFP server")
    what.add_argument("--schedule", metavar="CRON", help="run it on a KFP server at these times: '0 2 * * *'")
    what.add_argument("--delete-schedule", metavar="NAME", help="end a recurring run")
    values = parser.add_argument_group("with --run, --submit and --schedule")
    values.add_argument("-p", action="append", default=[], metavar="NAME=VALUE", help="one of the parameters")
    values.add_argument("--storage", help=f"parameter storage; with --run by default: {DEFAULT_STORAGE}")
    values.add_argument("--parameters", metavar="FILE", help="parameters from a YAML file; -p wins over it")
    add_target(parser)
    add_connection(parser)
    add_run(parser)
    add_schedule(parser)
    return parser


def add_target(parser: argparse.ArgumentParser) -> None:
    """The flags that say what a pipeline is compiled for."""
    group = parser.add_argument_group("with all but --run")
    group.add_argument("--output", type=Path, metavar="FILE", help="default: pipelines/compiled/NAME.yaml")
    group.add_argument("--image-registry", default=DEFAULT_REGISTRY, help="default: %(default)s")
    group.add_argument("--image-tag", default=DEFAULT_TAG, help="default: %(default)s")
    group.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="NAME=REF",
        help="one image, control or train; REF may end with @sha256:...",
    )
    group.add_argument(
        "--backend",
        choices=("job", "pod"),
        default="job",
        help="GPU steps launch a job of their own (default), or run in their step's pod, on one node",
    )
    group.add_argument(
        "--storage-secret", default=STORAGE_SECRET, help="Secret with access; default: %(default)s"
    )


def target(options: argparse.Namespace) -> Target:
    """What the flags of :func:`add_target` say."""
    return Target(
        registry=options.image_registry,
        tag=options.image_tag,
        images=image_references(options.image),
        backend=options.backend,
        secret=options.storage_secret,
    )


def _compile(pipeline: GraphComponent, options: argparse.Namespace) -> None:
    source = Path(inspect.getfile(pipeline.pipeline_func))
    output: Path = options.output or source.parent / "compiled" / f"{source.stem}.yaml"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(compiled(pipeline, target(options)), encoding="utf-8")
    print(output)


def _run(pipeline: GraphComponent, options: argparse.Namespace) -> None:
    if options.storage is None and not any(item.startswith("storage=") for item in options.p):
        options.storage = DEFAULT_STORAGE
    values = _checked(pipeline, options)
    from pipelines import local_runner, summary

    try:
        record = local_runner.run(pipeline, values)
    except local_runner.StepFailed as failure:
        sys.exit(_failed(failure, failure.exit_code))
    summary.show(record.steps)


def _submit(pipeline: GraphComponent, options: argparse.Namespace) -> None:
    from pipelines.server import connect
    from pipelines.submit import submit

    values = _checked(pipeline, options)
    submit(connect(options), compiled(pipeline, target(options)), values, options)


def _upload(pipeline: GraphComponent, options: argparse.Namespace) -> None:
    from pipelines.server import connect
    from pipelines.submit import upload

    upload(connect(options), compiled(pipeline, target(options)), pipeline.name, options)


def _schedule(pipeline: GraphComponent, options: argparse.Namespace) -> None:
    from pipelines.schedule import cron, schedule
    from pipelines.server import connect

    cron(options.schedule)
    values = _checked(pipeline, options)
    schedule(connect(options), compiled(pipeline, target(options)), pipeline.name, values, options)


def _delete_schedule(pipeline: GraphComponent, options: argparse.Namespace) -> None:
    from pipelines.schedule import delete
    from pipelines.server import connect

    delete(connect(options), options.delete_schedule, options)


ACTIONS: Mapping[str, Callable[[GraphComponent, argparse.Namespace], None]] = {
    "compile": _compile,
    "run": _run,
    "submit": _submit,
    "upload": _upload,
    "schedule": _schedule,
    "delete_schedule": _delete_schedule,
}
"""What each flag that says what to do does."""


def _checked(pipeline: GraphComponent, options: argparse.Namespace) -> dict[str, Any]:
    """Every parameter of a run, checked against the stages of its steps."""
    known = declared(pipeline.pipeline_spec)
    given = _given(options, known)
    values = with_defaults(given, known)
    check(pipeline.pipeline_spec, values, given)
    return values


def _given(options: argparse.Namespace, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The parameters that the user set; of those set twice, the command line's."""
    values = read_file(options.parameters, known) if options.parameters else {}
    values |= parsed(options.p, known)
    if options.storage is not None:
        values["storage"] = options.storage
    storage = values.get("storage")
    if storage is None or "://" in storage:
        return values
    if not options.run and not Path(storage).is_absolute():
        raise UserError(
            f"storage={storage!r}: a cluster cannot see it; give --storage s3://... or a folder on a volume"
        )
    return {**values, "storage": str(Path(storage).absolute())}
