"""The objects of jobs, as dictionaries: names, what the pods are, where a job stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from compose_rl.config.resources import Resources
from compose_rl.errors import UserError
from compose_rl.launch.backend import JobRequest
from compose_rl.launch.kubernetes import naming
from compose_rl.launch.kubernetes.capacity import check_storage
from compose_rl.launch.kubernetes.kinds import KINDS, Phase, State
from compose_rl.stages.spec import NAMES, load
from compose_rl.store import open_store

KEY = "0123456789abcdef" * 4
IMAGE = "registry/train:1"
ENVIRON = {
    "AWS_ENDPOINT_URL": "http://s3:9000",
    "AWS_SECRET_ACCESS_KEY": "hunter2",
    "HF_TOKEN": "hunter2",
    "MLFLOW_RUN_ID": "17",
    "HOME": "/root",
}
EVERY_KIND = pytest.mark.parametrize("kind", sorted(KINDS))


def asked(folder: Path, stage: str = "offline_rl", **resources: Any) -> JobRequest:
    return JobRequest(
        spec=load(stage),
        key=KEY,
        store=open_store(str(folder)),
        config={},
        inputs={},
        resources=Resources(**resources),
    )


def built(kind: str, folder: Path, *, environ: dict[str, str] = ENVIRON, **resources: Any) -> dict[str, Any]:
    request = asked(folder, **resources)
    return KINDS[kind].build(request, job=request.begin(), number=3, image=IMAGE, environ=environ)


def pod_spec(job: dict[str, Any], role: str = "Master") -> dict[str, Any]:
    return job["spec"]["pytorchReplicaSpecs"][role]["template"]["spec"]


def container(job: dict[str, Any]) -> dict[str, Any]:
    return pod_spec(job)["containers"][0]


def variables(job: dict[str, Any]) -> dict[str, str]:
    holder = job["spec"]["trainer"] if job["kind"] == "TrainJob" else container(job)
    return {variable["name"]: variable["value"] for variable in holder["env"]}


@pytest.mark.parametrize("stage", NAMES)
def test_every_stage_has_jobs_whose_names_are_dns_labels(stage: str):
    name = naming.job_name(stage, KEY, 99999)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert name.endswith("-0123456789-99999")
    assert len(f"{name}-master-0") <= 63


@EVERY_KIND
def test_a_job_says_what_it_is_for(kind: str, tmp_path: Path):
    job = built(kind, tmp_path, labels={"team": "a"})
    metadata = job["metadata"]
    assert metadata["name"] == "crl-offline-rl-0123456789-3"
    assert metadata["labels"] == {
        "app.kubernetes.io/name": "compose-rl",
        "compose-rl/stage": "offline_rl",
        "compose-rl/key": KEY[:32],
        "compose-rl/number": "3",
        "team": "a",
    }
    assert metadata["annotations"]["compose-rl/key"] == KEY
    uri = metadata["annotations"]["compose-rl/job"]
    assert uri.startswith(f"{tmp_path}/offline_rl/{KEY}/") and uri.endswith("/job.json")
    assert naming.number(metadata["labels"]) == 3


def test_a_pytorchjob_never_restarts_and_leaves_nothing_running(tmp_path: Path):
    job = built("pytorchjob", tmp_path, nodes=3, gpus_per_node=2, ttl_minutes=5, deadline_minutes=1.5)
    assert job["spec"]["runPolicy"] == {
        "cleanPodPolicy": "Running",
        "ttlSecondsAfterFinished": 300,
        "activeDeadlineSeconds": 90,
        "suspend": False,
    }
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert {role: spec["replicas"] for role, spec in replicas.items()} == {"Master": 1, "Worker": 2}
    assert {spec["restartPolicy"] for spec in replicas.values()} == {"Never"}
    assert replicas["Master"]["template"] == replicas["Worker"]["template"]
    assert replicas["Master"]["template"]["spec"]["activeDeadlineSeconds"] == 90
    assert job["spec"]["nprocPerNode"] == "2"
    assert container(job)["name"] == "pytorch"


def test_a_job_of_one_node_has_no_worker(tmp_path: Path):
    assert set(built("pytorchjob", tmp_path)["spec"]["pytorchReplicaSpecs"]) == {"Master"}


def test_a_trainjob_asks_for_the_same(tmp_path: Path):
    job = built("trainjob", tmp_path, nodes=3, gpus_per_node=2, deadline_minutes=1.5, memory="8Gi")
    spec = job["spec"]
    assert (spec["trainer"]["numNodes"], spec["trainer"]["numProcPerNode"]) == (3, 2)
    assert spec["activeDeadlineSeconds"] == 90
    assert spec["trainer"]["resourcesPerNode"]["limits"] == {"memory": "8Gi", "nvidia.com/gpu": "2"}
    assert spec["runtimeRef"] == {
        "apiGroup": "trainer.kubeflow.org",
        "kind": "TrainingRuntime",
        "name": "compose-rl",
    }


def test_trainers_run_the_stage_of_their_job(tmp_path: Path):
    job = built("pytorchjob", tmp_path, nodes=2, gpus_per_node=4)
    uri = job["metadata"]["annotations"]["compose-rl/job"]
    expected = ["python", "-m", "compose_rl.launch.trainer", "--module", "compose_rl.stages.offline_rl.run"]
    expected += ["--job", uri, "--nodes=2", "--procs=4"]
    assert container(job)["command"] == expected
    command = built("trainjob", tmp_path, nodes=2, gpus_per_node=4)["spec"]["trainer"]["command"]
    assert command[:5] == expected[:5] and command[-1] == "--secrets=/etc/compose-rl/secrets"


@EVERY_KIND
def test_only_names_that_are_no_secret_pass_from_the_launcher(kind: str, tmp_path: Path):
    job = built(kind, tmp_path, env={"NCCL_DEBUG": "INFO", "MLFLOW_RUN_ID": "18"})
    assert variables(job) == {
        "COMPOSE_RL_IMAGE": IMAGE,
        "COMPOSE_RL_GRACE_SECONDS": "270",  # of the pod's five minutes
        "AWS_ENDPOINT_URL": "http://s3:9000",
        "NCCL_DEBUG": "INFO",
        "MLFLOW_RUN_ID": "18",
    }
    assert "hunter2" not in str(job)


def test_secrets_become_variables_of_a_pytorchjob_and_files_of_a_trainjob(tmp_path: Path):
    given = {"storage_secret": "s3", "secrets": ["hub"]}
    expected = [{"name": "s3", "optional": True}, {"name": "hub"}]
    variables = container(built("pytorchjob", tmp_path, **given))["envFrom"]
    assert [source["secretRef"] for source in variables] == expected
    patch = built("trainjob", tmp_path, **given)["spec"]["runtimePatches"][0]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    volumes = replicated["template"]["spec"]["template"]["spec"]["volumes"]
    (files,) = [volume["projected"]["sources"] for volume in volumes if volume["name"] == "secrets"]
    assert [source["secret"] for source in files] == expected


def test_pods_ask_for_what_they_may_use_and_no_more(tmp_path: Path):
    job = built(
        "pytorchjob",
        tmp_path,
        cpu="4",
        memory="8Gi",
        gpus_per_node=1,
        gpu="amd.com/gpu",
        extra={"rdma/ib": "1"},
    )
    amounts = {"cpu": "4", "memory": "8Gi", "rdma/ib": "1", "amd.com/gpu": "1"}
    assert container(job)["resources"] == {"requests": amounts, "limits": amounts}
    assert container(built("pytorchjob", tmp_path))["resources"] == {}


@pytest.mark.parametrize(
    "given, size", [({"shm": "1Gi", "memory": "8Gi"}, "1Gi"), ({"memory": "8Gi"}, "8Gi"), ({}, None)]
)
def test_shared_memory_is_as_large_as_asked_for_or_as_the_memory(
    given: dict[str, str], size: str, tmp_path: Path
):
    volumes = {
        volume["name"]: volume for volume in pod_spec(built("pytorchjob", tmp_path, **given))["volumes"]
    }
    assert volumes["shared-memory"]["emptyDir"].get("sizeLimit") == size
    assert volumes["shared-memory"]["emptyDir"]["medium"] == "Memory"


def test_an_ordinary_user_writes_only_where_a_volume_is(tmp_path: Path):
    spec = pod_spec(built("pytorchjob", tmp_path, nodes=2), "Worker")
    assert spec["securityContext"]["runAsUser"] == 65532
    assert spec["automountServiceAccountToken"] is False
    (main,) = spec["containers"]
    assert main["securityContext"]["readOnlyRootFilesystem"] is True
    assert {mount["mountPath"] for mount in main["volumeMounts"]} == {"/tmp", "/dev/shm"}


def test_a_cluster_that_assigns_users_gets_none_from_us(tmp_path: Path):
    context = pod_spec(built("pytorchjob", tmp_path, run_as_user=None))["securityContext"]
    assert context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_placement_passes_through(tmp_path: Path):
    given: dict[str, Any] = {
        "node_selector": {"pool": "a"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priority_class": "high",
        "scheduler_name": "kai",
        "service_account": "trainer",
        "image_pull_secrets": ["registry"],
        "image_pull_policy": "Always",
        "grace_minutes": 10,
        "volumes": [{"name": "data", "emptyDir": {}}],
        "volume_mounts": [{"name": "data", "mountPath": "/data"}],
    }
    job = built("pytorchjob", tmp_path, **given)
    spec = pod_spec(job)
    assert spec["nodeSelector"] == {"pool": "a"}
    assert spec["tolerations"] == given["tolerations"] and spec["affinity"] == given["affinity"]
    assert (spec["priorityClassName"], spec["schedulerName"]) == ("high", "kai")
    assert spec["serviceAccountName"] == "trainer"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["terminationGracePeriodSeconds"] == 600
    assert given["volumes"][0] in spec["volumes"]
    assert given["volume_mounts"][0] in container(job)["volumeMounts"]
    assert container(job)["imagePullPolicy"] == "Always"


@pytest.mark.parametrize(
    "field, value",
    [("priority_class", "high"), ("scheduler_name", "kai"), ("image_pull_policy", "Always")],
)
def test_what_a_trainjob_cannot_say_is_refused(field: str, value: str, tmp_path: Path):
    with pytest.raises(
        UserError, match=f"resources: {field}={value}: a TrainJob cannot set it; set it in the"
    ):
        built("trainjob", tmp_path, **{field: value})


@EVERY_KIND
def test_a_job_for_a_queue_waits_for_it(kind: str, tmp_path: Path):
    job = built(kind, tmp_path, queue="team-a", queue_priority="high")
    labels = job["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "team-a"
    assert labels["kueue.x-k8s.io/priority-class"] == "high"
    assert KINDS[kind].suspended(job)
    assert KINDS[kind].phase(job) == Phase(State.QUEUED)
    free = built(kind, tmp_path)
    assert not KINDS[kind].suspended(free)
    assert KINDS[kind].phase(free) == Phase(State.CREATED)


@EVERY_KIND
def test_launchers_that_want_the_same_have_the_same_digest(kind: str, tmp_path: Path):
    def digest(**resources: Any) -> str:
        return built(kind, tmp_path, environ={}, **resources)["metadata"]["annotations"]["compose-rl/digest"]

    first = digest(memory="8Gi")
    assert digest(memory="8Gi") == first  # of another attempt
    assert KINDS[kind].digest(asked(tmp_path, memory="8Gi"), image=IMAGE) == first
    passed_on = built(kind, tmp_path, memory="8Gi")
    assert passed_on["metadata"]["annotations"]["compose-rl/digest"] == first
    assert digest(memory="9Gi") != first
    assert KINDS[kind].digest(asked(tmp_path, memory="8Gi"), image="registry/train:2") != first


def with_conditions(kind: str, folder: Path, *conditions: tuple[str, str]) -> dict[str, Any]:
    listed = [
        {"type": name, "status": status, "reason": f"R{name}", "message": "m"} for name, status in conditions
    ]
    return {**built(kind, folder), "status": {"conditions": listed}}


@pytest.mark.parametrize(
    "kind, conditions, state",
    [
        ("pytorchjob", [("Created", "True")], State.CREATED),
        ("pytorchjob", [("Created", "True"), ("Running", "True")], State.RUNNING),
        ("pytorchjob", [("Created", "True"), ("Running", "False"), ("Suspended", "True")], State.QUEUED),
        ("pytorchjob", [("Created", "True"), ("Suspended", "False"), ("Running", "True")], State.RUNNING),
        ("pytorchjob", [("Created", "True"), ("Restarting", "True")], State.RESTARTING),
        ("pytorchjob", [("Created", "True"), ("Running", "False"), ("Succeeded", "True")], State.SUCCEEDED),
        ("pytorchjob", [("Succeeded", "True"), ("Failed", "True")], State.FAILED),
        ("trainjob", [("Suspended", "True")], State.QUEUED),
        ("trainjob", [("Suspended", "False"), ("Complete", "True")], State.SUCCEEDED),
        ("trainjob", [("Suspended", "False"), ("Failed", "True")], State.FAILED),
        ("trainjob", [("Suspended", "False")], State.CREATED),
    ],
)
def test_where_a_job_stands(kind: str, conditions: list[tuple[str, str]], state: State, tmp_path: Path):
    phase = KINDS[kind].phase(with_conditions(kind, tmp_path, *conditions))
    assert phase.state == state
    assert phase.ended == (state in (State.SUCCEEDED, State.FAILED))
    if phase.ended:
        assert phase.reason.startswith("R") and phase.message == "m"


# Status of TrainJobs of two nodes as Trainer 2.3.0 and JobSet 0.12.0 wrote them.
_REAL = {
    "pods are there": ({"active": 1}, [], State.CREATED, ""),
    "all of them run": ({"active": 1, "ready": 1}, [], State.RUNNING, ""),
    "one has failed, the other is told to stop": ({}, [], State.CREATED, ""),
    "failed": ({"failed": 1}, [("Failed", "ReachedMaxRestarts")], State.FAILED, "ReachedMaxRestarts"),
    "failed, and suspended by its launcher": (
        {"failed": 1},
        [("Suspended", "Suspended"), ("Failed", "ReachedMaxRestarts")],
        State.FAILED,
        "ReachedMaxRestarts",
    ),
    "too late, its pods still leave": (
        {"active": 1, "ready": 1},
        [("Failed", "DeadlineExceeded")],
        State.FAILED,
        "DeadlineExceeded",
    ),
    "complete": (
        {"succeeded": 1},
        [("Complete", "AllJobsCompleted")],
        State.SUCCEEDED,
        "AllJobsCompleted",
    ),
    "left": ({"suspended": 1}, [("Suspended", "Suspended")], State.QUEUED, "Suspended"),
}


@pytest.mark.parametrize("jobs, conditions, state, reason", _REAL.values(), ids=_REAL)
def test_where_a_real_trainjob_stands(
    jobs: dict[str, int], conditions: list[tuple[str, str]], state: State, reason: str, tmp_path: Path
):
    job = built("trainjob", tmp_path)
    none = dict.fromkeys(("active", "failed", "ready", "succeeded", "suspended"), 0)
    job["status"] = {"jobsStatus": [{"name": "node", **none, **jobs}]}
    if conditions:
        job["status"]["conditions"] = [
            {"type": kind, "status": "True", "reason": why, "message": ""} for kind, why in conditions
        ]
    phase = KINDS["trainjob"].phase(job)
    assert (phase.state, phase.reason) == (state, reason)


@pytest.mark.parametrize("ready, state", [(0, State.CREATED), (1, State.RUNNING)])
def test_a_trainjob_runs_when_all_its_pods_do(ready: int, state: State, tmp_path: Path):
    job = built("trainjob", tmp_path)
    job["status"] = {"jobsStatus": [{"name": "node", "ready": ready, "active": 1}]}
    assert KINDS["trainjob"].phase(job).state == state


@pytest.mark.parametrize(
    "kind, labels, rank",
    [
        ("pytorchjob", {"replica-type": "master", "replica-index": "0"}, 0),
        ("pytorchjob", {"replica-type": "worker", "replica-index": "0"}, 1),
        ("pytorchjob", {"replica-type": "worker", "replica-index": "6"}, 7),
        ("trainjob", {"job-completion-index": "0"}, 0),
        ("trainjob", {"job-completion-index": "7"}, 7),
    ],
)
def test_which_node_a_pod_is(kind: str, labels: dict[str, str], rank: int):
    prefix = {"pytorchjob": "training.kubeflow.org", "trainjob": "batch.kubernetes.io"}[kind]
    pod = {"metadata": {"labels": {f"{prefix}/{name}": value for name, value in labels.items()}}}
    assert KINDS[kind].rank(pod) == rank
    assert KINDS[kind].rank_zero(pod) == (rank == 0)


def test_a_folder_is_a_storage_only_on_a_volume_that_trainers_mount(tmp_path: Path):
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}

    def resources(path: Path) -> Resources:
        mount = {"name": "data", "mountPath": str(path)}
        return Resources(volumes=[volume], volume_mounts=[mount])

    check_storage("s3://bucket/prefix", Resources())
    check_storage(str(tmp_path / "store"), resources(tmp_path))
    for given in (Resources(), resources(tmp_path / "other")):
        with pytest.raises(
            UserError, match=f"storage '{tmp_path}/store': a folder, and trainers mount no volume"
        ):
            check_storage(str(tmp_path / "store"), given)
