"""The rollout servers beside trainers, as dictionaries: what they are, and what trainers know of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compose_rl.config.resources import Resources
from compose_rl.errors import UserError
from compose_rl.launch.backend import JobRequest
from compose_rl.launch.kubernetes.kinds import KINDS
from compose_rl.launch.kubernetes.servers import server_plan, server_resources
from compose_rl.stages.spec import load
from compose_rl.store import open_store
from compose_rl.store.manifest import Manifest

KEY = "0123456789abcdef" * 4
IMAGE = "registry/train:1"
OWNER = {"uid": "17"}
EVERY_KIND = pytest.mark.parametrize("kind", sorted(KINDS))


def manifest(stage: str, info: dict[str, Any]) -> Manifest:
    return Manifest(
        stage=stage, version=1, key=KEY, uri="/m.json", attempt="a", config={}, outputs={}, info=info
    )


PROMPTS = {
    "dataset_type": "single_prompt",
    "columns": ["prompt"],
    "samples": {"train": 8},
    "longest": 10,
    "max_length": 64,
    "vocab_size": 64,
}
INPUTS = {
    "model": manifest("export", {"model_class": "causal_lm", "vocab_size": 64}),
    "prompts": manifest("tokenize", PROMPTS),
}


def asked(folder: Path, engine: dict[str, Any], **resources: Any) -> JobRequest:
    variables = {
        "max_gen_len": 6,
        "num_unique_prompts_per_iter": 4,
        "generations_per_prompt": 2,
        "rewards": {"short": {"reward_type": "short_response_reward", "reward": 1.0, "len_threshold": 4}},
        "engine": engine,
    }
    config = {
        "max_duration": "1iter",
        "global_train_batch_size": 8,
        "model": {"loss_type": "grpo"},
        "variables": variables,
    }
    return JobRequest(
        spec=load("online_rl"),
        key=KEY,
        store=open_store(str(folder)),
        config=config,
        inputs=INPUTS,
        resources=Resources(**resources),
    )


class Built:
    """A job and the objects of its servers."""

    def __init__(self, kind: str, request: JobRequest, *, suspend: bool = False) -> None:
        arguments: dict[str, Any] = {"job": request.begin(), "number": 3, "image": IMAGE, "environ": {}}
        self.job = KINDS[kind].build(request, **arguments)
        self.servers = KINDS[kind].servers(request, **arguments)
        self.secret, self.service, self.group = (
            [body for _, body in self.servers.objects("hunter2", OWNER, suspend=suspend)]
            if self.servers
            else [{}, {}, {}]
        )

    @property
    def variables(self) -> dict[str, Any]:
        """Of the trainers."""
        if self.job["kind"] == "TrainJob":
            listed = self.job["spec"]["trainer"]["env"]
        else:
            template = self.job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]
            listed = template["spec"]["containers"][0]["env"]
        return {each["name"]: each.get("value", each.get("valueFrom")) for each in listed}

    @property
    def pod(self) -> dict[str, Any]:
        return self.group["spec"]["template"]["spec"]

    @property
    def container(self) -> dict[str, Any]:
        (container,) = self.pod["containers"]
        return container


SERVER = {"kind": "server", "servers": 2}


@EVERY_KIND
def test_trainers_find_each_server_by_its_name(kind: str, tmp_path: Path):
    built = Built(kind, asked(tmp_path, SERVER))
    name = built.group["metadata"]["name"]
    assert name.startswith("crl-online-rl-0123456789-3-rollout-")
    assert len(f"{name}-99") <= 63
    urls = built.variables["COMPOSE_RL_ROLLOUT_URLS"].split(",")
    assert urls == [f"http://{name}-{index}.{name}:8000" for index in (0, 1)]
    assert built.job["metadata"]["annotations"]["compose-rl/servers"] == name
    assert built.service["metadata"]["name"] == built.pod["subdomain"] == name
    assert built.service["spec"]["clusterIP"] == "None"
    assert built.service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert built.container["ports"] == [{"name": "http", "containerPort": 8000}]


@EVERY_KIND
def test_both_sides_have_the_token_and_nobody_sees_it(kind: str, tmp_path: Path):
    built = Built(kind, asked(tmp_path, SERVER))
    source = {"secretKeyRef": {"name": built.secret["metadata"]["name"], "key": "token"}}
    assert built.variables["COMPOSE_RL_ROLLOUT_TOKEN"] == source
    assert {"name": "COMPOSE_RL_ROLLOUT_TOKEN", "valueFrom": source} in built.container["env"]
    assert built.secret["stringData"] == {"token": "hunter2"}
    assert "hunter2" not in json.dumps([built.job, built.service, built.group])


def test_a_server_that_is_lost_is_replaced_and_one_that_was_refused_is_not(tmp_path: Path):
    spec = Built("pytorchjob", asked(tmp_path, SERVER)).group["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["backoffLimit"] > 10**6
    assert spec["podReplacementPolicy"] == "Failed"
    refused, lost = spec["podFailurePolicy"]["rules"]
    assert (refused["action"], refused["onExitCodes"]["values"]) == ("FailJob", [2, 126, 127])
    assert lost["action"] == "Ignore"
    assert [each["type"] for each in lost["onPodConditions"]] == ["DisruptionTarget"]


def test_what_a_server_runs_and_how_it_is_looked_after(tmp_path: Path):
    built = Built("pytorchjob", asked(tmp_path, SERVER | {"start_timeout": 61}, grace_minutes=2))
    uri = built.job["metadata"]["annotations"]["compose-rl/job"]
    command = ["python", "-m", "compose_rl.launch.server", "--job", uri, "--port=8000"]
    assert built.container["command"] == command
    assert built.container["startupProbe"]["failureThreshold"] == 13
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert built.container[probe]["httpGet"] == {"path": "/health", "port": "http"}
    assert built.pod["terminationGracePeriodSeconds"] == 120
    assert {"name": "TMPDIR", "value": "/dev/shm"} in built.container["env"]
    assert built.container["securityContext"]["readOnlyRootFilesystem"] is True
    assert built.pod["securityContext"]["runAsNonRoot"] is True
    assert built.pod["automountServiceAccountToken"] is False


@pytest.mark.parametrize("suspend", [False, True])
def test_everything_belongs_to_the_job(suspend: bool, tmp_path: Path):
    built = Built("pytorchjob", asked(tmp_path, SERVER), suspend=suspend)
    for each in (built.secret, built.service, built.group):
        assert each["metadata"]["ownerReferences"] == [OWNER]
        assert each["metadata"]["labels"] == built.job["metadata"]["labels"]
    assert (
        built.group["spec"]["template"]["metadata"]["labels"].items()
        >= built.job["metadata"]["labels"].items()
    )
    assert built.group["spec"]["suspend"] is suspend


def test_a_job_owns_by_its_uid_and_controls_nothing():
    found = {"metadata": {"name": "x", "uid": "u"}}
    assert KINDS["trainjob"].reference(found) == {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "name": "x",
        "uid": "u",
        "controller": False,
        "blockOwnerDeletion": False,
    }


def test_servers_ask_for_what_they_are_given_and_else_for_what_trainers_do(tmp_path: Path):
    rollout = {"image": "registry/rollout:1", "memory": "4Gi", "node_selector": {"pool": "b"}}
    common = {"memory": "8Gi", "cpu": "2", "gpus_per_node": 8, "deadline_minutes": 5, "secrets": ["hub"]}
    engine = {"kind": "vllm", "tensor_parallel_size": 2}
    built = Built("pytorchjob", asked(tmp_path, engine, rollout=rollout, **common))
    assert built.container["image"] == "registry/rollout:1"
    limits = {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "2"}
    assert built.container["resources"] == {"requests": limits, "limits": limits}
    assert built.pod["nodeSelector"] == {"pool": "b"}
    assert {"secretRef": {"name": "hub"}} in built.container["envFrom"]
    assert "activeDeadlineSeconds" not in built.pod
    (memory,) = [each["emptyDir"] for each in built.pod["volumes"] if each["name"] == "shared-memory"]
    assert memory == {"medium": "Memory", "sizeLimit": "4Gi"}
    same = Built("pytorchjob", asked(tmp_path, SERVER, memory="8Gi"))
    assert same.container["image"] == IMAGE
    assert same.container["resources"]["limits"] == {"memory": "8Gi"}


@pytest.mark.parametrize("engine", [{"kind": "hf"}, {"kind": "vllm", "urls": ["http://there:8000"]}])
def test_an_engine_of_its_own_or_elsewhere_makes_nothing(engine: dict[str, Any], tmp_path: Path):
    built = Built("pytorchjob", asked(tmp_path, engine))
    assert built.servers is None
    assert "compose-rl/servers" not in built.job["metadata"]["annotations"]
    assert not any(name.startswith("COMPOSE_RL_ROLLOUT") for name in built.variables)


def test_what_does_not_fit_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"rollout\.image is not set.*'rollout'"):
        Built("pytorchjob", asked(tmp_path, {"kind": "vllm"}))
    request = asked(tmp_path, {"kind": "server"}, rollout={"gpus": 2})
    plan = server_plan(request)
    assert plan is not None and plan.max_length == 16
    with pytest.raises(UserError, match=r"rollout\.gpus=2, but engine\.tensor_parallel_size=1"):
        server_resources(request.resources, plan)


@EVERY_KIND
def test_the_digest_covers_the_servers(kind: str, tmp_path: Path):
    def digest(engine: dict[str, Any], **resources: Any) -> str:
        request = asked(tmp_path, engine, **resources)
        annotations = Built(kind, request).job["metadata"]["annotations"]
        assert annotations["compose-rl/digest"] == KINDS[kind].digest(request, image=IMAGE)
        return annotations["compose-rl/digest"]

    first = digest(SERVER)
    assert digest(SERVER) == first
    assert digest(SERVER | {"servers": 3}) != first
    assert digest(SERVER, rollout={"memory": "1Gi"}) != first
