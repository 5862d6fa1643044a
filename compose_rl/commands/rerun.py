"""``compose-rl rerun``: one stage again, with the recorded inputs of a past run and changed settings."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compose_rl.store.manifest import Manifest

__all__ = ["add", "recorded", "run"]


def add(parser: argparse.ArgumentParser) -> None:
    from compose_rl.commands.placing import add_placing

    parser.add_argument("manifest", help="manifest of the past run, path or s3:// URI")
    parser.add_argument(
        "--set", "-p", action="append", default=[], metavar="KEY=VALUE", help="a changed value, as a.b=0.1"
    )
    parser.add_argument("--storage", metavar="URI", help="where results go; by default beside the past run's")
    add_placing(parser)


def run(arguments: argparse.Namespace) -> None:
    from compose_rl.commands.documents import overridden, read_manifest
    from compose_rl.commands.placing import cluster, resources
    from compose_rl.commands.stage import report
    from compose_rl.launch import run_stage
    from compose_rl.launch.choose import backend_for
    from compose_rl.stages.spec import load

    past = read_manifest(arguments.manifest)
    inputs = {name: recorded(given.uri, given.key) for name, given in past.inputs.items()}
    # <storage>/<stage>/<key>/manifest.json, and one folder more for a pinned source
    storage = arguments.storage or past.uri.split(f"/{past.stage}/{past.key}/")[0]
    config = overridden(past.config, arguments.set)
    spec, wanted = load(past.stage), resources(arguments)
    backend = backend_for(spec, wanted, cluster(arguments))
    outcome = run_stage(spec, config, inputs, storage, resources=wanted, backend=backend)
    report(outcome.manifest, cached=outcome.cached)


def recorded(uri: str, key: str) -> Manifest:
    """The input that a past run read.

    Raises:
        UserError: it is gone, or another one lies there now.
    """
    from compose_rl.commands.documents import read_manifest
    from compose_rl.errors import UserError

    manifest = read_manifest(uri)
    if manifest.key != key:
        raise UserError(
            f"{uri}: has key {manifest.key[:12]}, the past run read {key[:12]}; run that stage again"
        )
    return manifest
