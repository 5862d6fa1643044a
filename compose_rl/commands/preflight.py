"""``compose-rl preflight``: what a cluster, a storage and Kubeflow Pipelines lack, before any run finds out.

It runs no job and asks for no GPU; with --image it starts a pod for a moment. Run it where and as whom
launchers will run (a pod with their service account) to see what they see. Exit code 0: nothing is missing.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from compose_rl.launch.preflight.finding import Check

__all__ = ["add", "run"]

_PATIENCE_SECONDS = 5.0
_WIDTH = 22


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--storage", required=True, metavar="URI", help="s3://bucket/prefix or folder")
    parser.add_argument("--namespace", help="by default that of the kubeconfig's context, or the pod's own")
    parser.add_argument("--context", help="of the kubeconfig; by default its current one")
    parser.add_argument(
        "--resources", default="", metavar="YAML", help="what jobs will ask for: a YAML file, or YAML itself"
    )
    parser.add_argument(
        "--image", action="append", default=[], help="an image to try in a pod; may be given several times"
    )
    parser.add_argument("--no-pod", action="store_true", help="start no pod")
    parser.add_argument("--host", metavar="URL", help="of Kubeflow Pipelines")


def run(arguments: argparse.Namespace) -> None:
    from compose_rl.errors import UserError
    from compose_rl.launch.preflight.finding import Verdict

    wrong = _shown(_checks(arguments)).count(Verdict.NO)
    if wrong:
        raise UserError(
            f"preflight: {wrong} of the checks say 'no'; mend them, from the first on, and run it again"
        )


def _checks(arguments: argparse.Namespace) -> Iterator[Check]:
    """In the order in which they are to be mended."""
    from compose_rl.commands.documents import document
    from compose_rl.config.resources import Resources
    from compose_rl.config.schema import parse
    from compose_rl.launch.preflight import cluster, images, pipelines, storage

    resources = parse(Resources, document(arguments.resources, "--resources"), "resources")
    api, reachable = cluster.reach(arguments.context, arguments.namespace, patience=_PATIENCE_SECONDS)
    yield reachable
    if api is not None:
        yield from cluster.checks(api, resources, arguments.storage)
    yield from storage.checks(arguments.storage)
    wanted = arguments.image or ([resources.image] if resources.image else [])
    if api is not None and not arguments.no_pod:
        yield from images.checks(api, wanted, resources)
    if arguments.host:
        yield from pipelines.checks(arguments.host)


def _shown(checks: Iterable[Check]) -> list[str]:
    """Look, a line for each finding as soon as it is there; the verdicts."""
    import sys

    from compose_rl.launch.preflight.finding import finding

    verdicts: list[str] = []
    for check in checks:
        if sys.stdout.isatty():
            print(f"..  {check.what}", end="\r", flush=True)
        found = finding(check)
        print(f"{found.verdict:2}  {found.what:{_WIDTH}}{found.said}", flush=True)
        verdicts.append(found.verdict)
    return verdicts
