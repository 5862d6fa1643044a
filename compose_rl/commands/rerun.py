"""``compose-rl rerun``: one stage again, with its recorded inputs and changed settings."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compose_rl.store.manifest import Manifest

__all__ = ["add", "recorded", "run"]


def add(parser: argparse.ArgumentParser) -> None:
    from compose_rl.commands.placing import add_placing

    parser.add_argument("manifest", nargs="?", help="its manifest, path or s3:// URI; or:")
    parser.add_argument("--run", metavar="ID", help="a run of a pipeline, with its --storage")
    parser.add_argument("--step", metavar="NAME", help="and which of its steps, which may have failed")
    parser.add_argument(
        "--set", "-p", action="append", default=[], metavar="KEY=VALUE", help="a changed value, as a.b=0.1"
    )
    parser.add_argument("--storage", metavar="URI", help="where results go; by default beside the past one's")
    add_placing(parser)


def run(arguments: argparse.Namespace) -> None:
    from compose_rl.commands.documents import overridden
    from compose_rl.commands.placing import cluster, resources
    from compose_rl.commands.stage import report
    from compose_rl.launch import run_stage
    from compose_rl.launch.choose import backend_for
    from compose_rl.stages.spec import load

    past = _of_manifest(arguments) if arguments.manifest else _of_run(arguments)
    config = overridden(past.config, arguments.set)
    spec, wanted = load(past.stage), resources(arguments, past.resources)
    backend = backend_for(spec, wanted, cluster(arguments))
    outcome = run_stage(spec, config, past.inputs, past.storage, resources=wanted, backend=backend)
    report(outcome.manifest, cached=outcome.cached)


@dataclass(frozen=True)
class Past:
    """What a stage was asked for."""

    stage: str
    config: dict[str, Any]
    inputs: dict[str, Manifest]
    storage: str
    resources: dict[str, Any]


def _of_manifest(arguments: argparse.Namespace) -> Past:
    from compose_rl.store.lineage import read_manifest

    past = read_manifest(arguments.manifest)
    inputs = {name: recorded(given.uri, given.key) for name, given in past.inputs.items()}
    # <storage>/<stage>/<key>/manifest.json, and one folder more for a pinned source
    storage = arguments.storage or past.uri.split(f"/{past.stage}/{past.key}/")[0]
    return Past(past.stage, past.config, inputs, storage, {})


def _of_run(arguments: argparse.Namespace) -> Past:
    from compose_rl.errors import UserError
    from compose_rl.store import open_store
    from compose_rl.store.lineage import read_manifest
    from compose_rl.store.runs import read_record

    if not (arguments.run and arguments.step and arguments.storage):
        raise UserError("rerun: give a manifest, or --storage, --run and --step")
    past = read_record(open_store(arguments.storage), arguments.run, arguments.step)
    inputs = {name: read_manifest(uri) for name, uri in past.inputs.items()}
    return Past(past.stage, past.config, inputs, arguments.storage, past.resources)


def recorded(uri: str, key: str) -> Manifest:
    """The input that a past run read.

    Raises:
        UserError: it is gone, or another one lies there now.
    """
    from compose_rl.errors import UserError
    from compose_rl.store.lineage import read_manifest

    manifest = read_manifest(uri)
    if manifest.key != key:
        raise UserError(
            f"{uri}: has key {manifest.key[:12]}, the past run read {key[:12]}; run that stage again"
        )
    return manifest
