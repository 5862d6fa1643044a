"""What a cluster must have for a job, looked at before the job is made.

A launcher need not have the right to look at everything: what it may not see is left to the scheduler, whose
refusals are shown as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from compose_rl.config.resources import Resources
from compose_rl.config.rollouts import ServerPlan
from compose_rl.errors import UserError
from compose_rl.launch.backend import JobRequest
from compose_rl.launch.kubernetes.api import Api, Forbidden, NotFound
from compose_rl.launch.kubernetes.resource import (
    LOCAL_QUEUES,
    NODES,
    SECRETS,
    TRAINING_RUNTIMES,
    Object,
    Resource,
)
from compose_rl.launch.kubernetes.servers import server_plan, server_resources

__all__ = [
    "allocatable",
    "check",
    "check_gpus",
    "check_queue",
    "check_runtime",
    "check_secrets",
    "check_storage",
]


_GPU_FIELDS = {
    False: ("", "gpus_per_node", ("gpus_per_node", "nodes")),
    True: ("rollout.", "rollout.gpus", ("engine.tensor_parallel_size", "engine.servers")),
}
"""Of trainers and of servers: the section, the field that says how many, and those to lower and to raise."""


def check(api: Api, request: JobRequest) -> None:
    """Refuse a job that could never run.

    Raises:
        UserError: one line: what is missing and what to do.
    """
    resources = request.resources
    check_storage(request.store.uri, resources)
    plan = server_plan(request)
    checks = [check_secrets, check_queue]
    if resources.check_nodes:
        checks.append(check_gpus)
        if plan is not None:
            checks.append(partial(_check_server_gpus, plan))
    if resources.backend == "trainjob":
        checks.append(check_runtime)
    for each in checks:
        with contextlib.suppress(Forbidden):
            each(api, resources)


def check_storage(uri: str, resources: Resources) -> None:
    """Whether trainers can reach the storage: a folder has to be on a volume that they mount there too.

    Raises:
        UserError: it is on none.
    """
    if "://" in uri:
        return
    folder = PurePosixPath(uri)
    if not any(folder.is_relative_to(mount["mountPath"]) for mount in resources.volume_mounts):
        raise UserError(
            f"storage '{uri}': a folder, and trainers mount no volume there; add a shared volume"
            " to volumes and volume_mounts in resources, or choose an s3:// storage"
        )


def _check_server_gpus(plan: ServerPlan, api: Api, resources: Resources) -> None:
    check_gpus(api, server_resources(resources, plan), servers=True)


def check_gpus(api: Api, resources: Resources, *, servers: bool = False) -> None:
    """Whether some node has as many GPUs as each node of the job asks for.

    Args:
        servers: the resources are those of a job's rollout servers.

    Raises:
        UserError: none has.
        Forbidden: this identity may not list nodes.
    """
    wanted = resources.gpus_per_node
    if not wanted:
        return
    nodes, _ = api.list(NODES)
    fitting = [node for node in nodes if _selected(node, resources.node_selector)]
    remedy = "or check_nodes to false where nodes are added on demand"
    section, gpus, more = _GPU_FIELDS[servers]
    if not fitting:
        raise UserError(
            f"resources: {section}node_selector={dict(resources.node_selector)}: no node has these labels;"
            f" mend it, {remedy}"
        )
    most = max(int(allocatable(node).get(resources.gpu, "0")) for node in fitting)
    if wanted > most:
        where = "no node that node_selector leaves" if resources.node_selector else "no node"
        hint = f"set {more[0]} to at most {most} and {more[1]} to more" if most else "name another in gpu"
        raise UserError(
            f"resources: {gpus}={wanted}: {where} has more than {most} of {resources.gpu}; {hint}, {remedy}"
        )


def check_secrets(api: Api, resources: Resources) -> None:
    """Whether the secrets that must be there are.

    Raises:
        UserError: one is not.
        Forbidden: this identity may not read secrets.
    """
    for name in resources.secrets:
        _get(api, SECRETS, name, f"resources: secrets: '{name}'", "create it, or take it out of secrets")


def check_queue(api: Api, resources: Resources) -> None:
    """Whether the queue that is named is there, since a job in a queue that is not waits for ever.

    Raises:
        UserError: it is not, or Kueue is not.
        Forbidden: this identity may not read queues.
    """
    if resources.queue:
        what = f"resources: queue={resources.queue}"
        _get(api, LOCAL_QUEUES, resources.queue, what, "create a LocalQueue, or leave queue out")


def check_runtime(api: Api, resources: Resources) -> None:
    """Whether a TrainJob's runtime is there, and starts no pod a second time.

    Raises:
        UserError: it is not, or would.
        Forbidden: this identity may not read runtimes.
    """
    what = f"resources: runtime={resources.runtime}"
    remedy = "apply manifests/components/trainer there"
    found = _get(api, TRAINING_RUNTIMES, resources.runtime, what, remedy)
    jobs: list[Object] = found["spec"]["template"]["spec"].get("replicatedJobs") or []
    for job in jobs:
        if job["name"] != "node":
            continue
        spec = job["template"]["spec"]
        if spec.get("backoffLimit") != 0 or spec["template"]["spec"].get("restartPolicy") != "Never":
            raise UserError(
                f"{what}: it starts failed pods again; set backoffLimit: 0 and restartPolicy: Never"
                " in its job 'node', as manifests/components/trainer does"
            )
        return
    raise UserError(f"{what}: it has no job 'node'; {remedy}")


def _get(api: Api, resource: Resource, name: str, what: str, remedy: str) -> Object:
    try:
        return api.get(resource, name)
    except NotFound:
        raise UserError(f"{what} is not in namespace '{api.namespace}'; {remedy}") from None


def _selected(node: Mapping[str, Any], selector: Mapping[str, str]) -> bool:
    labels: Mapping[str, str] = node["metadata"].get("labels") or {}
    return all(labels.get(name) == value for name, value in selector.items())


def allocatable(node: Mapping[str, Any]) -> Mapping[str, str]:
    """What a node has for pods, by the name of the resource."""
    found: Mapping[str, str] = node.get("status", {}).get("allocatable") or {}
    return found
