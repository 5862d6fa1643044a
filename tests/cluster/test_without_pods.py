"""Launchers against a real control plane; what a kubelet would say of the pods, the test writes."""

from __future__ import annotations

import json
import signal
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import up
from by_hand import new_pods, succeed, write_status
from clients import Object
from crds import KUEUE
from kubernetes import client
from launching import Launcher, Launchers
from space import Space

sys.path.insert(0, str(Path(__file__).parents[1] / "toy"))
from toy_stage import SPEC

from compose_rl.errors import EXIT_BUG, EXIT_USER

SIGTERM_EXIT = 128 + signal.SIGTERM


def holders(job: Object) -> list[str]:
    return json.loads(job["metadata"]["annotations"]["compose-rl/holders"])


@pytest.fixture
def team_queue(space: Space) -> Iterator[str]:
    """A queue of Kueue's; the test does what Kueue would."""
    with KUEUE.installed():
        queue = {
            "apiVersion": "kueue.x-k8s.io/v1beta1",
            "kind": "LocalQueue",
            "metadata": {"name": "team"},
            "spec": {"clusterQueue": "all"},
        }
        up.kubectl("-n", space.namespace, "apply", "-f", "-", text=json.dumps(queue))
        yield "team"


def error_line(launcher: Launcher) -> str:
    """What it failed with: one line, and no traceback."""
    assert "Traceback" not in launcher.output, launcher.output
    (line,) = [line for line in launcher.output.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.scenario("409 race of launchers")
def test_of_launchers_that_start_at_once_one_makes_the_job(api_launchers: Launchers, space: Space) -> None:
    launchers = [api_launchers.toy() for _ in range(4)]
    launchers[0].until(lambda: space.jobs and len(holders(space.jobs[0])) == 4, "four holders")
    assert sum("started PyTorchJob" in launcher.output for launcher in launchers) == 1
    (pod,) = new_pods(space, launchers[0])
    succeed(space, pod)
    assert [launcher.wait() for launcher in launchers] == [0, 0, 0, 0]
    assert len(space.jobs) == 1


@pytest.mark.scenario("suspended by a queue, then released")
def test_a_queued_job_waits_runs_when_released_and_may_be_queued_again(
    api_launchers: Launchers, space: Space, team_queue: str
) -> None:
    launcher = api_launchers.toy(queue=team_queue)
    launcher.says("queued: ")
    (job,) = space.jobs
    name = job["metadata"]["name"]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == team_queue
    assert space.pods == []

    def suspend(value: bool) -> None:
        space.admin.patch_job(space.namespace, name, {"spec": {"runPolicy": {"suspend": value}}})

    suspend(False)
    (pod,) = new_pods(space, launcher)
    write_status(space, pod, "Running", {"running": {"startedAt": "2026-01-01T00:00:00Z"}})
    launcher.says("1 pod running")
    suspend(True)
    launcher.until(lambda: not space.pods, "no pods")
    launcher.until(lambda: launcher.output.count("queued: ") > 1, "second wait")
    suspend(False)
    (pod,) = new_pods(space, launcher)
    succeed(space, pod)
    assert launcher.wait() == 0
    assert [job["metadata"]["name"] for job in space.jobs] == [name]


@pytest.mark.scenario("queue limit")
def test_a_job_that_its_queue_never_lets_go_is_given_up(
    api_launchers: Launchers, space: Space, team_queue: str
) -> None:
    launcher = api_launchers.toy(queue=team_queue, queue_minutes=0.05, tries=1)
    assert launcher.wait() == EXIT_USER
    assert "queue_minutes" in error_line(launcher)
    assert space.jobs == []  # suspended, it would be started when its turn comes


@pytest.mark.scenario("no node fits: shown at once")
def test_what_the_scheduler_says_is_shown(api_launchers: Launchers, space: Space) -> None:
    launcher = api_launchers.toy()
    (pod,) = new_pods(space, launcher)
    message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    write_status(space, pod, "Pending", conditions=[condition])
    launcher.says(f"1 of 1 pods waiting for a place: {message}", seconds=20)
    assert launcher.terminate() == SIGTERM_EXIT


@pytest.mark.scenario("image that cannot be pulled")
def test_an_image_that_is_not_there_ends_the_step(api_launchers: Launchers, space: Space) -> None:
    launcher = api_launchers.toy()
    (pod,) = new_pods(space, launcher)
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "docker.io/x:1": not found'}
    write_status(space, pod, "Pending", {"waiting": waiting})
    assert launcher.wait() == EXIT_USER
    line = error_line(launcher)
    assert "ImagePullBackOff" in line
    assert "docker.io/x:1" in line
    assert "image_pull_secrets" in line
    assert space.jobs[0]["spec"]["runPolicy"]["suspend"] is True


@pytest.mark.scenario("eviction is retried")
def test_an_evicted_pod_is_tried_again_in_a_new_job(api_launchers: Launchers, space: Space) -> None:
    launcher = api_launchers.toy()
    (pod,) = new_pods(space, launcher)
    message = "The node was low on resource: memory."
    write_status(space, pod, "Failed", reason="Evicted", message=message)
    launcher.until(lambda: len(space.jobs) == 2, "the second job")
    assert f"Evicted: {message}" in launcher.output
    first, second = space.jobs
    assert second["metadata"]["name"] == first["metadata"]["name"].removesuffix("1") + "2"
    launcher.until(
        lambda: any(second["metadata"]["name"] in p["metadata"]["name"] for p in space.pods), "pod"
    )
    (pod,) = [pod for pod in space.pods if second["metadata"]["name"] in pod["metadata"]["name"]]
    succeed(space, pod)
    assert launcher.wait() == 0


@pytest.mark.scenario("out of memory")
def test_a_pod_out_of_memory_is_no_reason_to_try_again(api_launchers: Launchers, space: Space) -> None:
    launcher = api_launchers.toy(memory="256Mi")
    (pod,) = new_pods(space, launcher)
    write_status(space, pod, "Failed", {"terminated": {"exitCode": 137, "reason": "OOMKilled"}})
    assert launcher.wait() == EXIT_USER
    assert "OOMKilled: used more memory than its limit of 256Mi" in error_line(launcher)
    assert len(space.jobs) == 1


@pytest.mark.scenario("worker fails while the master hangs")
def test_a_worker_that_fails_ends_the_job_of_a_master_that_hangs(
    api_launchers: Launchers, space: Space
) -> None:
    launcher = api_launchers.toy(nodes=2)
    master, worker = new_pods(space, launcher, 2)
    for pod in (master, worker):
        write_status(space, pod, "Running", {"running": {"startedAt": "2026-01-01T00:00:00Z"}})
    launcher.says("2 pods running")
    end = {"exitCode": 1, "reason": "Error", "message": "rank 1: exit code 1"}
    write_status(space, worker, "Failed", {"terminated": end})
    assert launcher.wait() == EXIT_BUG
    assert worker["metadata"]["name"] in error_line(launcher)
    assert len(space.jobs) == 1


@pytest.mark.scenario("job deleted by somebody else")
def test_a_job_that_somebody_deletes_ends_the_step(api_launchers: Launchers, space: Space) -> None:
    launcher = api_launchers.toy()
    new_pods(space, launcher)
    space.admin.delete_job(space.namespace, space.jobs[0]["metadata"]["name"])
    assert launcher.wait() == EXIT_BUG
    assert "was deleted by somebody else" in error_line(launcher)
    assert space.jobs == []


@pytest.mark.scenario("terminate")
def test_sigterm_suspends_the_job_of_the_last_launcher(api_launchers: Launchers, space: Space) -> None:
    launchers = [api_launchers.toy(), api_launchers.toy()]
    launchers[0].until(lambda: space.jobs and len(holders(space.jobs[0])) == 2, "two holders")
    new_pods(space, launchers[0])
    assert launchers[0].terminate() == SIGTERM_EXIT
    (job,) = space.jobs
    assert len(holders(job)) == 1
    assert job["spec"]["runPolicy"]["suspend"] is False
    assert launchers[1].terminate() == SIGTERM_EXIT
    (job,) = space.jobs
    assert holders(job) == []
    assert job["spec"]["runPolicy"]["suspend"] is True
    assert "SIGTERM" in job["metadata"]["annotations"]["compose-rl/left"]
    launcher = api_launchers.toy()  # a job that is left is never joined
    launcher.until(lambda: len(space.jobs) == 2, "the next job")
    assert launcher.terminate() == SIGTERM_EXIT


@pytest.mark.scenario("foreign job under our name")
def test_somebody_elses_job_is_not_touched(api_launchers: Launchers, space: Space) -> None:
    name = f"crl-toy-{SPEC.key(SPEC.parse({}, {}), {})[:10]}-1"
    container = {"name": "pytorch", "image": "docker.io/local/none:1"}
    template = {"spec": {"containers": [container], "schedulerName": "by-hand"}}
    body = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name},
        "spec": {"pytorchReplicaSpecs": {"Master": {"replicas": 1, "template": template}}},
    }
    before = space.admin.create_job(space.namespace, body)
    launcher = api_launchers.toy()
    assert launcher.wait() == EXIT_USER
    assert name in error_line(launcher)
    (after,) = space.jobs
    assert (after["metadata"]["uid"], after["spec"]) == (before["metadata"]["uid"], before["spec"])


@pytest.mark.scenario("RBAC denied")
def test_without_the_role_the_line_says_what_is_missing(api_launchers: Launchers, space: Space) -> None:
    space.admin.rbac.delete_namespaced_role_binding("compose-rl", space.namespace)
    launcher = api_launchers.toy()
    assert launcher.wait() == EXIT_USER
    line = error_line(launcher)
    assert "the service account may not" in line
    assert space.namespace in line
    assert "apply the Role of manifests/base" in line


@pytest.mark.scenario("CRD missing")
def test_without_the_operator_the_line_says_what_to_install(api_launchers: Launchers, space: Space) -> None:
    installed = space.admin.definitions.list_custom_resource_definition().items
    assert "trainjobs.trainer.kubeflow.org" not in [found.metadata.name for found in installed]
    launcher = api_launchers.toy(backend="trainjob", scheduler_name=None)  # which a TrainJob cannot set
    assert launcher.wait() == EXIT_USER
    assert "the cluster does not know" in error_line(launcher)
    assert "install Kubeflow Trainer" in error_line(launcher)


@pytest.mark.scenario("API server that is not there")
def test_an_api_server_that_never_answers_is_transient(
    api_launchers: Launchers, space: Space, tmp_path: Path
) -> None:
    text = space.kubeconfig.read_text().replace(":6443", ":6")
    other = tmp_path / "elsewhere"
    other.write_text(text)
    launcher = api_launchers.toy(env={"KUBECONFIG": str(other)})
    launcher.until(lambda: "10.99.0.1:6" in launcher.output, "a line about the server that is away")
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.wait(90) == SIGTERM_EXIT


@pytest.mark.scenario("expired watch (410)")
def test_a_watch_whose_history_is_gone_starts_anew(api_launchers: Launchers, space: Space) -> None:
    launcher = api_launchers.toy()
    (pod,) = new_pods(space, launcher)
    write_status(space, pod, "Running", {"running": {"startedAt": "2026-01-01T00:00:00Z"}})
    launcher.says("1 pod running")
    old = int(space.jobs[0]["metadata"]["resourceVersion"])
    with up.api_server_away():
        _forget_history()
    with pytest.raises(client.ApiException) as refused:
        space.admin.core.list_namespaced_pod(
            space.namespace, resource_version=str(old), resource_version_match="Exact"
        )
    assert refused.value.status == 410
    succeed(space, pod)
    assert launcher.wait() == 0


def _forget_history() -> None:
    """Have etcd compact all but its newest revision."""

    def ask(path: str, body: Object) -> Object:
        url = f"http://127.0.0.1:2379/v3/{path}"
        with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=10) as response:
            return json.load(response)

    newest = ask("kv/range", {"key": "AA=="})["header"]["revision"]
    ask("kv/put", {"key": "dGVzdA==", "value": "MQ=="})
    ask("kv/compaction", {"revision": int(newest) + 1, "physical": True})
