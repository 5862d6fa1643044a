"""What a cluster must have: its kinds of objects, rights, secrets, queues, GPUs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial

from compose_rl.config.resources import Resources
from compose_rl.errors import TransientError, UserError
from compose_rl.launch.kubernetes.api import Api, NotFound, NotServed
from compose_rl.launch.kubernetes.capacity import (
    allocatable,
    check_gpus,
    check_queue,
    check_runtime,
    check_secrets,
    check_storage,
)
from compose_rl.launch.kubernetes.kinds import KINDS
from compose_rl.launch.kubernetes.resource import (
    EVENTS,
    JOBS,
    LOCAL_QUEUES,
    NODES,
    PODS,
    SECRETS,
    SELF_SUBJECT_ACCESS_REVIEWS,
    SERVICES,
    WORKFLOWS,
    WORKLOADS,
    Object,
    Resource,
)
from compose_rl.launch.preflight.finding import Check, Unclear

__all__ = ["checks", "reach"]

NAMESPACES = Resource("", "v1", "namespaces", namespaced=False)
PRIORITY_CLASSES = Resource("scheduling.k8s.io", "v1", "priorityclasses", namespaced=False)
QUEUE_PRIORITIES = Resource(
    "kueue.x-k8s.io", "v1beta1", "workloadpriorityclasses", namespaced=False, comes_with="Kueue"
)
SELF_SUBJECT_REVIEWS = Resource("authentication.k8s.io", "v1", "selfsubjectreviews", namespaced=False)

_JOB_VERBS = ("get", "list", "watch", "create", "patch", "delete")
_NO_SERVERS = "online_rl has no servers in pods beside its trainers (engine.kind vllm, server)"
_RIGHTS = ((PODS, "", ("get", "list", "watch")), (PODS, "log", ("get",)), (EVENTS, "", ("list",)))
_RIGHTS_OF_SOME = (
    (JOBS, ("create", "patch"), _NO_SERVERS),
    (SERVICES, ("create",), _NO_SERVERS),
    (SECRETS, ("create",), _NO_SERVERS),
    (WORKFLOWS, ("get", "list"), "'compose-rl gc' cannot see which runs still go on"),
    (NODES, ("list",), "more GPUs than any node has are not refused at once, but wait for a node"),
)
_ENFORCE = "pod-security.kubernetes.io/enforce"


def reach(context: str | None, namespace: str | None, *, patience: float) -> tuple[Api | None, Check]:
    """The cluster, None where there is none, and what is to be said of it.

    Args:
        patience: seconds that a server that does not answer is waited for.
    """
    try:
        api = Api.connect(context, namespace, patience=patience, say=_aside)
        said = f"{_about(api, '/version')['gitVersion']}, {_whoami(api)}"
    except (UserError, TransientError) as reason:
        return None, Check("Kubernetes API", partial(_failed, reason))
    return api, Check("Kubernetes API", lambda: said)


def _aside(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _failed(reason: Exception) -> str:
    raise reason


def checks(api: Api, resources: Resources, storage: str) -> Iterator[Check]:
    """Everything that is looked at without starting a pod."""
    name = resources.backend if resources.backend in KINDS else "pytorchjob"
    yield Check("namespace", partial(_pod_security, api, name))
    yield Check(name, partial(_served, api, KINDS[name].resource))
    for other in KINDS.keys() - {name}:
        yield Check(other, partial(_optional, api, KINDS[other].resource, f"only backend '{other}' needs it"))
    if resources.queue:
        yield Check("Kueue", partial(_served, api, LOCAL_QUEUES))
    for resource, part, verbs in ((KINDS[name].resource, "", _JOB_VERBS), *_RIGHTS):
        what = f"right to {resource.plural}" + (f"/{part}" if part else "")
        yield Check(what, partial(_may, api, resource, verbs, part))
    for resource, verbs, without in _RIGHTS_OF_SOME:
        yield Check(f"right to {resource.plural}", partial(_may_perhaps, api, resource, verbs, without))
    if resources.queue:
        without = "nothing says why Kueue holds a job back"
        yield Check("right to workloads", partial(_may_perhaps, api, WORKLOADS, ("get", "list"), without))
    yield from _named(api, resources, name)
    if "://" not in storage:
        check = partial(check_storage, storage, resources)
        yield Check("storage volume", partial(_passes, check, "mounted by trainers"))
    yield Check("GPUs", partial(_gpus, api, resources))


def _named(api: Api, resources: Resources, kind: str) -> Iterator[Check]:
    """What the resources name."""
    yield Check("storage secret", partial(_storage_secret, api, resources.storage_secret))
    if resources.secrets:
        found = f"{', '.join(resources.secrets)}"
        yield Check("secrets", partial(_passes, partial(check_secrets, api, resources), found))
    if resources.queue:
        yield Check("queue", partial(_passes, partial(check_queue, api, resources), resources.queue))
    if resources.queue_priority:
        yield Check("queue priority", partial(_there, api, QUEUE_PRIORITIES, resources.queue_priority))
    if resources.priority_class:
        yield Check("priority class", partial(_there, api, PRIORITY_CLASSES, resources.priority_class))
    if kind == "trainjob":
        yield Check("runtime", partial(_passes, partial(check_runtime, api, resources), resources.runtime))


def _about(api: Api, path: str) -> Object:
    found = api.about(path)
    if found is None:
        raise UserError(f"{path}: this is no Kubernetes API server; check the kubeconfig's server")
    return found


def _whoami(api: Api) -> str:
    try:
        found = api.create(SELF_SUBJECT_REVIEWS, {})
    except NotServed:  # before Kubernetes 1.28
        return f"namespace '{api.namespace}'"
    return f"namespace '{api.namespace}' as {found['status']['userInfo']['username']}"


def _served(api: Api, resource: Resource) -> str:
    """Whether the API knows a kind of object, in the version that the launcher speaks."""
    group = api.about(f"/apis/{resource.group}")
    known = api.about(f"/apis/{resource.api_version}")
    if known is not None and any(each["name"] == resource.plural for each in known["resources"]):
        return resource.api_version
    versions: list[Object] = (group or {}).get("versions") or []
    there = ", ".join(version["version"] for version in versions) or "nothing"
    raise UserError(
        f"the cluster does not know {resource.full_name} in version {resource.version}"
        f" (of that group: {there}); install {resource.comes_with}"
    )


def _optional(api: Api, resource: Resource, who: str) -> str:
    try:
        return _served(api, resource)
    except UserError as reason:
        raise Unclear(f"{who}: {reason}") from None


def _may(api: Api, resource: Resource, verbs: tuple[str, ...], part: str = "") -> str:
    """By a SelfSubjectAccessReview for each verb."""
    missing = [verb for verb in verbs if not _allowed(api, resource, verb, part)]
    if missing:
        what = resource.full_name + (f"/{part}" if part else "")
        where = f"in namespace '{api.namespace}'" if resource.namespaced else "in the cluster"
        raise UserError(
            f"may not {', '.join(missing)} {what} {where};"
            " bind the Role of manifests/base to this account there"
        )
    return ", ".join(verbs)


def _may_perhaps(api: Api, resource: Resource, verbs: tuple[str, ...], without: str) -> str:
    try:
        return _may(api, resource, verbs)
    except UserError as reason:
        raise Unclear(f"{reason}; without it {without}") from None


def _allowed(api: Api, resource: Resource, verb: str, part: str) -> bool:
    attributes = {
        "namespace": api.namespace if resource.namespaced else "",
        "group": resource.group,
        "resource": resource.plural,
        "subresource": part,
        "verb": verb,
    }
    review: Object = {
        "apiVersion": SELF_SUBJECT_ACCESS_REVIEWS.api_version,
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    return bool(api.create(SELF_SUBJECT_ACCESS_REVIEWS, review)["status"]["allowed"])


def _storage_secret(api: Api, name: str) -> str:
    try:
        found = api.get(SECRETS, name)
    except NotFound:
        raise Unclear(
            f"'{name}' is not in namespace '{api.namespace}': trainers then need a service account or a"
            " volume that leads to the storage; else create it (manifests/examples/storage-secret.yaml)"
        ) from None
    data: Object = found.get("data") or {}
    return f"{name} ({', '.join(sorted(data)) or 'empty'})"


def _passes(check: partial[None], found: str) -> str:
    check()
    return found


def _there(api: Api, resource: Resource, name: str) -> str:
    try:
        api.get(resource, name)
    except NotFound:
        raise UserError(
            f"{resource.full_name} '{name}' does not exist; create it, or choose another"
        ) from None
    return name


def _pod_security(api: Api, kind: str) -> str:
    try:
        found = api.get(NAMESPACES, api.namespace)
    except NotFound:
        raise UserError(f"there is no namespace '{api.namespace}'; create it or choose another") from None
    labels: dict[str, str] = found["metadata"].get("labels") or {}
    level = labels.get(_ENFORCE, "")
    if level == "restricted" and kind == "pytorchjob":
        raise Unclear(
            "'restricted' is enforced, and the init container that the training operator gives to workers"
            " must pass it as well, which its own does not: see manifests/operator (one node needs none)"
        )
    return f"'{level}' is enforced" if level else "no standard is enforced"


def _gpus(api: Api, resources: Resources) -> str:
    check_gpus(api, resources)
    nodes, _ = api.list(NODES)
    amounts = [int(allocatable(node).get(resources.gpu, "0")) for node in nodes]
    having = [amount for amount in amounts if amount]
    if not having:
        raise Unclear(f"none of {len(nodes)} nodes has {resources.gpu}; fine where nodes are added on demand")
    where = f"on {len(having)} of {len(nodes)} nodes, at most {max(having)} on one"
    return f"{sum(having)} of {resources.gpu} {where}"
