"""Which backend runs a stage's job."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from compose_rl.config.resources import Resources
from compose_rl.environments import interpreter
from compose_rl.errors import UserError
from compose_rl.launch.backend import Backend
from compose_rl.launch.process import ProcessBackend
from compose_rl.stages.spec import StageSpec

__all__ = ["Cluster", "backend_for"]

_HERE = {"process", "pod"}
"""Backends whose jobs are processes of this machine, or of the pod that this is."""
_IN_CLUSTER = "KUBERNETES_SERVICE_HOST"
"""Kubernetes sets it in every pod."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What a job on a cluster needs beside its resources."""

    image: str | None = None
    """Of the trainers, where the resources name none."""
    step: str = ""
    """The pipeline's step that the job is for."""
    namespace: str | None = None
    """Of the jobs; None: the pod's own, or that of the kubeconfig's context."""
    context: str | None = None
    """Of the kubeconfig."""


def backend_for(
    spec: StageSpec,
    resources: Resources,
    cluster: Cluster = Cluster(),
    *,
    environ: Mapping[str, str] = os.environ,
) -> Backend:
    """The backend that ``resources`` name; ``auto`` looks at what is here.

    A stage that needs no GPU never becomes a job of its own: it runs where it is started.

    Raises:
        UserError: no image is known for a job on a cluster, or no cluster.
    """
    name = resources.backend if spec.accelerated else "process"
    if name == "auto":
        name = "pytorchjob" if _IN_CLUSTER in environ and not _installed(spec.environment) else "process"
    if name in _HERE:
        return ProcessBackend()
    image = resources.image or cluster.image
    if not image:
        raise UserError(
            f"resources: image is not set, and a {name} of {spec.name} needs one; set it to the image"
            f" '{spec.environment}' (--resources 'image: ...')"
        )
    return _on_cluster(name, image, cluster)


def _installed(environment: str) -> bool:
    try:
        interpreter(environment)
    except UserError:
        return False
    return True


def _on_cluster(name: str, image: str, cluster: Cluster) -> Backend:
    from compose_rl.launch.kubernetes.api import Api
    from compose_rl.launch.kubernetes.backend import ClusterBackend
    from compose_rl.launch.kubernetes.hold import Place
    from compose_rl.launch.kubernetes.identity import identify
    from compose_rl.launch.kubernetes.kinds import KINDS

    api = Api.connect(cluster.context, cluster.namespace, say=_say)
    own = Api.connect(cluster.context, say=_say) if cluster.namespace else api
    identity = identify(own, namespace=api.namespace, step=cluster.step)
    return ClusterBackend(Place(kind=KINDS[name], api=api, identity=identity, image=image))


def _say(line: str) -> None:
    """A line of news; stdout is the command's own."""
    print(line, file=sys.stderr, flush=True)
