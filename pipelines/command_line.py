"""The command line of a pipeline: ``--compile`` it for a cluster, or ``--run`` it here."""

from __future__ import annotations

import argparse
import inspect
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kfp.compiler import Compiler
from kfp.dsl.graph_component import GraphComponent

from components.container import DEFAULT_REGISTRY, DEFAULT_TAG, image
from compose_rl.errors import UserError
from pipelines.checks import check
from pipelines.parameters import declared, parsed, read_file, with_defaults

__all__ = ["compiled", "main"]

DEFAULT_STORAGE = "store"
ENVIRONMENTS = ("control", "train", "rollout")


def main(pipeline: GraphComponent, arguments: Sequence[str] | None = None) -> None:
    """The entry point; exits with the codes of :mod:`compose_rl.errors`."""
    options = _parser(pipeline).parse_args(arguments)
    try:
        if options.compile:
            _compile(pipeline, options)
        else:
            _run(pipeline, options)
    except UserError as error:
        sys.exit(_failed(error, error.exit_code))
    except KeyboardInterrupt:
        sys.exit(130)


def _failed(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr, flush=True)
    return code


def _parser(pipeline: GraphComponent) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=inspect.getdoc(pipeline.pipeline_func),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--compile", action="store_true", help="write the pipeline as YAML for a KFP backend")
    what.add_argument("--run", action="store_true", help="run it on this machine")
    here = parser.add_argument_group("with --run")
    here.add_argument("-p", action="append", default=[], metavar="NAME=VALUE", help="one of the parameters")
    here.add_argument("--storage", help=f"parameter storage; default: {DEFAULT_STORAGE}")
    here.add_argument("--parameters", metavar="FILE", help="parameters from a YAML file; -p wins over it")
    there = parser.add_argument_group("with --compile")
    there.add_argument("--output", type=Path, metavar="FILE", help="default: pipelines/compiled/NAME.yaml")
    there.add_argument("--image-registry", default=DEFAULT_REGISTRY, help="default: %(default)s")
    there.add_argument("--image-tag", default=DEFAULT_TAG, help="default: %(default)s")
    return parser


def _compile(pipeline: GraphComponent, options: argparse.Namespace) -> None:
    source = Path(inspect.getfile(pipeline.pipeline_func))
    output: Path = options.output or source.parent / "compiled" / f"{source.stem}.yaml"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(compiled(pipeline, options.image_registry, options.image_tag), encoding="utf-8")
    print(output)


def compiled(pipeline: GraphComponent, registry: str = DEFAULT_REGISTRY, tag: str = DEFAULT_TAG) -> str:
    """The pipeline as YAML, with the images of a registry."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pipeline.yaml")
        Compiler().compile(pipeline, str(path))
        text = path.read_text(encoding="utf-8")
    for name in ENVIRONMENTS:
        text = text.replace(f"image: {image(name)}\n", f"image: {image(name, registry, tag)}\n")
    return text


def _run(pipeline: GraphComponent, options: argparse.Namespace) -> None:
    known = declared(pipeline.pipeline_spec)
    given = _given(options, known)
    values = with_defaults(given, known)
    check(pipeline.pipeline_spec, values, given)
    from pipelines import local_runner, summary

    try:
        record = local_runner.run(pipeline, values)
    except local_runner.StepFailed as failure:
        sys.exit(_failed(failure, failure.exit_code))
    summary.show(record.steps)


def _given(options: argparse.Namespace, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The parameters that the user set; of those set twice, the command line's."""
    values = read_file(options.parameters, known) if options.parameters else {}
    values |= parsed(options.p, known)
    if options.storage is not None:
        values["storage"] = options.storage
    values.setdefault("storage", DEFAULT_STORAGE)
    if "://" not in values["storage"]:
        values["storage"] = str(Path(values["storage"]).absolute())
    return values
