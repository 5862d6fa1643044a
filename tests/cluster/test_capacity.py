"""What a cluster lacks for a job, said before the job is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from clients import Object
from crds import TRAINER
from places import ADMIN
from space import Space
from toy_stage import SPEC

from compose_rl.config.resources import Resources
from compose_rl.config.rollouts import RolloutEngine, ServerPlan
from compose_rl.errors import UserError
from compose_rl.launch.backend import JobRequest
from compose_rl.launch.kubernetes.api import Api
from compose_rl.launch.kubernetes.capacity import check
from compose_rl.store import open_store

RUNTIME = Path(__file__).parents[2] / "manifests/components/trainer/training-runtime.yaml"


@pytest.fixture
def api(space: Space, monkeypatch: pytest.MonkeyPatch) -> Api:
    """One that may look at everything."""
    monkeypatch.setenv("KUBECONFIG", str(ADMIN))
    return Api.connect(namespace=space.namespace)


@pytest.fixture
def gpu_node(space: Space) -> Iterator[dict[str, str]]:
    """A node of 4 GPUs that takes no pods; its label."""
    label = {"compose-rl-test/pool": space.namespace}
    taint = {"key": "compose-rl-test/none", "effect": "NoSchedule"}
    node = {"metadata": {"name": space.namespace, "labels": label}, "spec": {"taints": [taint]}}
    core = space.admin.core
    core.create_node(node)
    amounts = {"cpu": "8", "memory": "8Gi", "pods": "10", "nvidia.com/gpu": "4"}
    core.patch_node_status(space.namespace, {"status": {"capacity": amounts, "allocatable": amounts}})
    yield label
    core.delete_node(space.namespace)


def asked(space: Space, **resources: Any) -> JobRequest:
    return JobRequest(
        spec=SPEC,
        key="0" * 64,
        store=open_store(space.storage),
        config={},
        inputs={},
        resources=Resources(image="x", **resources),
    )


def refused(api: Api, space: Space, **resources: Any) -> str:
    with pytest.raises(UserError) as error:
        check(api, asked(space, **resources))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.scenario("more GPUs than any node has")
def test_more_gpus_than_any_node_has_are_refused(api: Api, space: Space, gpu_node: dict[str, str]) -> None:
    check(api, asked(space, gpus_per_node=4, node_selector=gpu_node))
    message = refused(api, space, gpus_per_node=8, node_selector=gpu_node)
    assert "gpus_per_node=8: no node that node_selector leaves has more than 4 of nvidia.com/gpu" in message
    assert "set gpus_per_node to at most 4 and nodes to more" in message
    message = refused(api, space, gpus_per_node=1, gpu="amd.com/gpu", node_selector=gpu_node)
    assert "has more than 0 of amd.com/gpu; name another in gpu" in message
    assert "no node has these labels" in refused(api, space, gpus_per_node=1, node_selector={"no": "such"})
    check(api, asked(space, gpus_per_node=8, node_selector=gpu_node, check_nodes=False))


@pytest.mark.scenario("more GPUs than any node has, of a server")
def test_servers_are_counted_too(api: Api, space: Space, gpu_node: dict[str, str]) -> None:
    def asked_for(each: int, **rollout: Any) -> JobRequest:
        def plan(config: Any, inputs: Any) -> ServerPlan:
            return ServerPlan(RolloutEngine(kind="server", tensor_parallel_size=each), 8)

        request = asked(space, gpus_per_node=4, node_selector=gpu_node, rollout=rollout)
        return replace(request, spec=replace(SPEC, servers=plan))

    check(api, asked_for(4))
    with pytest.raises(UserError) as error:
        check(api, asked_for(8))
    assert "rollout.gpus=8: no node that node_selector leaves has more than 4" in str(error.value)
    assert "set engine.tensor_parallel_size to at most 4 and engine.servers to more" in str(error.value)
    with pytest.raises(UserError, match=r"rollout\.node_selector=\{'no': 'such'\}: no node has these labels"):
        check(api, asked_for(1, node_selector={"no": "such"}))


@pytest.mark.scenario("more GPUs than any node has, without the right to look")
def test_a_launcher_that_may_not_look_leaves_it_to_the_scheduler(space: Space) -> None:
    check(Api.connect(), asked(space, gpus_per_node=1000, secrets=["none"]))


@pytest.mark.scenario("secret missing")
def test_a_secret_that_is_not_there_is_named(api: Api, space: Space) -> None:
    message = refused(api, space, secrets=["hub"])
    assert f"secrets: 'hub' is not in namespace '{space.namespace}'; create it" in message
    space.admin.core.create_namespaced_secret(space.namespace, {"metadata": {"name": "hub"}})
    check(api, asked(space, secrets=["hub"]))


@pytest.mark.scenario("queue without Kueue")
def test_a_queue_where_there_is_no_kueue_is_refused(api: Api, space: Space) -> None:
    message = refused(api, space, queue="team")
    assert "the cluster does not know localqueues.kueue.x-k8s.io" in message and "install Kueue" in message


@pytest.mark.scenario("TrainJob: runtime missing, or one that starts pods again")
def test_the_runtime_of_a_trainjob_must_be_there_and_never_restart(api: Api, space: Space) -> None:
    with TRAINER.installed():
        message = refused(api, space, backend="trainjob")
        assert "runtime=compose-rl is not in namespace" in message
        assert "apply manifests/components/trainer there" in message
        create_runtime(space, yaml.safe_load(RUNTIME.read_text()))
        check(api, asked(space, backend="trainjob"))
        for number, change in enumerate(
            [{"backoffLimit": 6}, {"template": {"spec": {"restartPolicy": "OnFailure"}}}]
        ):
            name = f"again-{number}"
            create_runtime(space, changed(name, change))
            message = refused(api, space, backend="trainjob", runtime=name)
            assert f"runtime={name}: it starts failed pods again; set backoffLimit: 0" in message


def changed(name: str, change: Object) -> Object:
    runtime = yaml.safe_load(RUNTIME.read_text())
    runtime["metadata"]["name"] = name
    spec = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = {**spec["template"]["spec"], **change.get("template", {}).get("spec", {})}
    spec.update({**change, "template": {"spec": pod}})
    return runtime


def create_runtime(space: Space, runtime: Object) -> None:
    place = ("trainer.kubeflow.org", "v1alpha1", space.namespace, "trainingruntimes")
    space.admin.custom.create_namespaced_custom_object(*place, runtime)
