"""Job objects against the API server: every field is one that it knows, and the pods are "restricted"."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from clients import Object
from crds import TRAINER
from kubernetes.client.exceptions import ApiException
from space import Space
from toy_stage import SPEC

from compose_rl.config.resources import Resources
from compose_rl.launch.backend import JobRequest
from compose_rl.launch.kubernetes.kinds import KINDS, State
from compose_rl.store import open_store

RUNTIME = Path(__file__).parents[2] / "manifests/components/trainer/training-runtime.yaml"
KEY = "0123456789abcdef" * 4
BY_HAND = {"scheduler_name": "by-hand"}
"""No such scheduler: pods are made, and none runs."""
EVERYTHING: dict[str, Any] = {
    "nodes": 2,
    "gpus_per_node": 8,
    "cpu": "500m",
    "memory": "1Gi",
    "shm": "64Mi",
    "extra": {"ephemeral-storage": "1Gi"},
    "image_pull_secrets": ["registry"],
    "service_account": "default",
    "secrets": ["hub"],
    "env": {"NCCL_DEBUG": "INFO"},
    "node_selector": {"pool": "gpu"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {
                    "topologyKey": "kubernetes.io/hostname",
                    "labelSelector": {"matchLabels": {"compose-rl/key": KEY[:32]}},
                }
            ]
        }
    },
    "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    "volume_mounts": [{"name": "data", "mountPath": "/data", "readOnly": True}],
    "labels": {"team": "a"},
    "annotations": {"example.com/note": "any text: at all"},
    "deadline_minutes": 60,
}
ONLY_PYTORCHJOB = {
    "priority_class": "system-cluster-critical",
    "image_pull_policy": "IfNotPresent",
    **BY_HAND,
}
OTHER_KINDS = {"trainjob": {}, "pytorchjob": ONLY_PYTORCHJOB}


@pytest.fixture(scope="module")
def trainer(cluster: str) -> Iterator[None]:
    with TRAINER.installed():
        yield


@pytest.fixture
def restricted(space: Space) -> Space:
    """The namespace refuses every pod that does not meet "restricted"."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    space.admin.core.patch_namespace(space.namespace, {"metadata": {"labels": labels}})
    return space


def request(space: Space, **resources: Any) -> JobRequest:
    return JobRequest(
        spec=SPEC,
        key=KEY,
        store=open_store(space.storage),
        config={},
        inputs={},
        resources=Resources(image="docker.io/local/none:1", **resources),
    )


def built(space: Space, kind: str, **resources: Any) -> Object:
    asked = request(space, **resources)
    environ = {"AWS_REGION": "us-east-1"}
    return KINDS[kind].build(asked, job=asked.job_file(), number=1, image="", environ=environ)


def create(space: Space, kind: str, body: Object) -> Object:
    """As the launcher may, with every unknown field refused."""
    resource = KINDS[kind].resource
    place = (resource.group, resource.version, space.namespace, resource.plural)
    return space.admin.custom.create_namespaced_custom_object(*place, body, field_validation="Strict")


def until(seen: Callable[[], Any], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while not (found := seen()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)
    return found


def pods_of(space: Space, body: Object) -> list[Object]:
    """What the job's operator makes of the pod templates, as far as the namespace takes it."""
    labels = ",".join(f"{k}={v}" for k, v in KINDS["pytorchjob"].pod_labels(body["metadata"]["name"]).items())
    found = space.admin.core.list_namespaced_pod(space.namespace, label_selector=labels).items
    return space.admin.core.api_client.sanitize_for_serialization(found)


@pytest.mark.scenario("objects are valid: every field, PyTorchJob and TrainJob")
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_api_server_knows_every_field(kind: str, restricted: Space, trainer: None) -> None:
    given = EVERYTHING | OTHER_KINDS[kind] | {"queue": "team"}
    body = built(restricted, kind, **given)
    found = create(restricted, kind, body)
    assert set(found["spec"]) >= set(body["spec"])
    body["spec"]["nonsense"] = 1
    with pytest.raises(ApiException, match="unknown field"):
        create(restricted, kind, body)


@pytest.mark.scenario("a TrainJob's runtime is valid")
def test_the_runtime_of_trainjobs_is_valid(restricted: Space, trainer: None) -> None:
    runtime = yaml.safe_load(RUNTIME.read_text())
    place = ("trainer.kubeflow.org", "v1alpha1", restricted.namespace, "trainingruntimes")
    restricted.admin.custom.create_namespaced_custom_object(*place, runtime, field_validation="Strict")


@pytest.mark.scenario("pods meet the Pod Security Standard restricted")
def test_a_pytorchjobs_pods_are_taken_where_restricted_is_enforced(restricted: Space) -> None:
    body = built(restricted, "pytorchjob", nodes=3, **BY_HAND)
    create(restricted, "pytorchjob", body)
    pods = until(lambda: found if len(found := pods_of(restricted, body)) == 3 else None)
    kind = KINDS["pytorchjob"]
    assert sorted(kind.rank(pod) for pod in pods) == [0, 1, 2]
    assert sum(kind.rank_zero(pod) for pod in pods) == 1
    assert {len(pod["spec"].get("initContainers", [])) for pod in pods} == {0, 1}
    for pod in pods:
        assert pod["metadata"]["labels"].items() >= body["metadata"]["labels"].items()


@pytest.mark.scenario("pods meet the Pod Security Standard restricted")
def test_a_trainjobs_pods_are_taken_where_restricted_is_enforced(restricted: Space) -> None:
    """The runtime's pod with the TrainJob's patch over it, as the controller puts them together."""
    runtime = yaml.safe_load(RUNTIME.read_text())
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    body = built(restricted, "trainjob")
    patch = body["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]
    spec: Object = {
        **job["template"]["spec"]["template"]["spec"],
        **patch["template"]["spec"]["template"]["spec"],
    }
    main = {**job["template"]["spec"]["template"]["spec"]["containers"][0], **spec["containers"][0]}
    pod: Object = {"metadata": {"name": "node"}, "spec": {**spec, "containers": [{**main, "image": "x"}]}}
    create_pod(restricted, pod)
    pod["spec"]["containers"][0]["securityContext"] = {}
    with pytest.raises(ApiException, match="restricted"):
        create_pod(restricted, pod)


def create_pod(space: Space, pod: Object) -> None:
    space.admin.core.create_namespaced_pod(space.namespace, pod, dry_run="All", field_validation="Strict")


@pytest.mark.scenario("a suspended job holds no pods")
def test_a_job_for_a_queue_has_no_pods_before_it_is_let_go(restricted: Space) -> None:
    kind = KINDS["pytorchjob"]
    body = built(restricted, "pytorchjob", queue="team", **BY_HAND)
    name = body["metadata"]["name"]
    create(restricted, "pytorchjob", body)

    def job() -> Object:
        return restricted.jobs[0]

    until(lambda: job().get("status", {}).get("conditions"))
    assert kind.phase(job()).state == State.QUEUED
    assert pods_of(restricted, body) == []
    restricted.admin.patch_job(restricted.namespace, name, {"spec": {"runPolicy": {"suspend": False}}})
    until(lambda: pods_of(restricted, body))
    assert not kind.suspended(job())
    until(lambda: kind.phase(job()).state == State.CREATED)
    restricted.admin.patch_job(restricted.namespace, name, {"spec": {"runPolicy": {"suspend": True}}})
    until(lambda: not restricted.pods)
    until(lambda: kind.phase(job()).state == State.QUEUED)
    assert kind.suspended(job())
