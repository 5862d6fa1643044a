"""``compose-rl stage``: run one stage by hand."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compose_rl.store.manifest import Manifest

__all__ = ["add", "report", "run"]


def add(parser: argparse.ArgumentParser) -> None:
    from compose_rl.commands.documents import add_config
    from compose_rl.commands.placing import add_placing

    parser.add_argument("name", help="stage, for instance tokenize")
    parser.add_argument(
        "--storage", required=True, metavar="URI", help="folder or s3://bucket/prefix for results"
    )
    add_config(parser)
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="SLOT=MANIFEST",
        help="manifest of an input, path or URI",
    )
    add_placing(parser)
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the key, run nothing")


def run(arguments: argparse.Namespace) -> None:
    from compose_rl.commands.documents import document, overridden, read_inputs
    from compose_rl.commands.placing import cluster, resources
    from compose_rl.launch import run_stage
    from compose_rl.launch.choose import backend_for
    from compose_rl.stages.spec import load

    spec = load(arguments.name)
    config = overridden(document(arguments.config), arguments.set)
    inputs = read_inputs(arguments.input)
    if arguments.dry_run:
        typed = spec.parse(config, inputs)
        print("known when it has run" if spec.always else spec.key(typed, inputs))
        return
    wanted = resources(arguments)
    backend = backend_for(spec, wanted, cluster(arguments))
    outcome = run_stage(spec, config, inputs, arguments.storage, resources=wanted, backend=backend)
    report(outcome.manifest, cached=outcome.cached)


def report(manifest: Manifest, *, cached: bool) -> None:
    """What a finished stage prints: on stdout its manifest's place alone, so that scripts can take it."""
    import sys

    if cached:
        print("done before, nothing to do", file=sys.stderr)
    for name, value in sorted(manifest.metrics.items()):
        print(f"  {name} = {value:.6g}", file=sys.stderr)
    print(manifest.uri)
