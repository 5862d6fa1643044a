"""Command-line flags that say where a job runs and with what."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compose_rl.config.resources import Resources
    from compose_rl.launch.choose import Cluster

__all__ = ["add_placing", "cluster", "resources"]


def add_placing(parser: argparse.ArgumentParser) -> None:
    """The flags of every command that runs a stage."""
    from typing import get_args

    from compose_rl.config.resources import BackendName

    group = parser.add_argument_group("where the job runs")
    group.add_argument(
        "--backend", choices=get_args(BackendName), help="auto: processes here, or a PyTorchJob from a pod"
    )
    group.add_argument(
        "--resources",
        default="",
        metavar="YAML",
        help="what the job asks of its place: a YAML file, or YAML itself (nodes, gpus_per_node, image, ...)",
    )
    group.add_argument("--procs", type=int, help="processes of a training job on each node (torchrun)")
    group.add_argument("--namespace", help="of the job; by default that of the kubeconfig's context")
    group.add_argument("--context", help="of the kubeconfig; by default its current one")


def resources(arguments: argparse.Namespace, before: Mapping[str, Any] | None = None) -> Resources:
    """What the flags ask for, over what was asked for ``before``.

    Raises:
        UserError: an unknown key, or a value that does not fit.
    """
    from compose_rl.commands.documents import document
    from compose_rl.config.resources import Resources
    from compose_rl.config.schema import parse

    given = document(arguments.resources, "--resources")
    flags = {"backend": arguments.backend, "procs_per_node": arguments.procs}
    return parse(
        Resources,
        dict(before or {}) | given | {name: v for name, v in flags.items() if v is not None},
        "resources",
    )


def cluster(arguments: argparse.Namespace) -> Cluster:
    """Which cluster the flags name."""
    from compose_rl.launch.choose import Cluster

    return Cluster(namespace=arguments.namespace, context=arguments.context)
