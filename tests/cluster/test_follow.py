"""Following a job on a real cluster. Where no pod runs, the test says what a kubelet would say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from by_hand import write_status
from clients import Object
from conftest import NEVER_SCHEDULED
from places import ADDRESS, BUSYBOX
from proxy import Proxy, kubeconfig_through
from space import Space

from compose_rl.config.resources import Resources
from compose_rl.errors import EXIT_BUG, EXIT_TRANSIENT, EXIT_USER
from compose_rl.launch.kubernetes import follow as following
from compose_rl.launch.kubernetes.api import Api
from compose_rl.launch.kubernetes.follow import follow
from compose_rl.launch.kubernetes.jobend import End, JobEnd
from compose_rl.launch.kubernetes.kinds import KINDS
from compose_rl.launch.kubernetes.resource import PYTORCHJOBS

KIND = KINDS["pytorchjob"]
RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}


class Followed(threading.Thread):
    """A job that is followed from a thread."""

    def __init__(self, api: Api, name: str, resources: Resources, adopted: bool = False) -> None:
        super().__init__(daemon=True)
        self.lines: list[str] = []
        self.seen: list[Object] = []
        self._end: list[JobEnd | BaseException] = []
        self._arguments: Any = {"resources": resources, "adopted": adopted}
        self._api, self._name = api, name

    def run(self) -> None:
        arguments = {**self._arguments, "out": self.lines.append, "seen": self.seen.append}
        try:
            self._end.append(follow(self._api, KIND, self._name, **arguments))
        except BaseException as error:
            self._end.append(error)

    @property
    def end(self) -> JobEnd:
        self.join(60)
        assert self._end, f"not ended; it said: {self.lines}"
        (end,) = self._end
        if isinstance(end, BaseException):
            raise end
        return end

    def until(self, holds: Callable[[], Any], what: str) -> None:
        limit = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < limit, f"no {what}; it said: {self.lines}"
            assert self.is_alive() or holds(), f"ended before {what}: {self._end}, {self.lines}"
            time.sleep(0.05)

    def says(self, words: str) -> None:
        self.until(lambda: any(words in line for line in self.lines), words)


class Jobs:
    """Makes jobs and follows them."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.api = Api.connect()

    def create(self, name: str, *scripts: str, queue: bool = False, **pod: Any) -> None:
        """A job with a pod for each script; an empty one is never run, the test writes the pod's status."""
        roles = ["Master", "Worker"]
        replicas = {role: _replica(script, pod) for role, script in zip(roles, scripts, strict=False)}
        policy = {"cleanPodPolicy": "Running", "backoffLimit": 0, "suspend": queue}
        body = {
            "apiVersion": "kubeflow.org/v1",
            "kind": "PyTorchJob",
            "metadata": {"name": name},
            "spec": {"runPolicy": policy, "pytorchReplicaSpecs": replicas},
        }
        self.api.create(PYTORCHJOBS, body)

    def follow(self, name: str, *, adopted: bool = False, api: Api | None = None, **limits: Any) -> Followed:
        followed = Followed(api or self.api, name, Resources(grace_minutes=0.02, **limits), adopted)
        followed.start()
        return followed

    def pods(self, name: str, count: int) -> list[Object]:
        limit = time.monotonic() + 30
        while True:
            found = [pod for pod in self.space.pods if pod["metadata"]["name"].startswith(f"{name}-")]
            if len(found) == count:
                return sorted(found, key=lambda pod: pod["metadata"]["name"])
            assert time.monotonic() < limit, [pod["metadata"]["name"] for pod in found]
            time.sleep(0.05)


def _replica(script: str, pod: Object) -> Object:
    container: Object = {"name": "pytorch", "image": BUSYBOX, "imagePullPolicy": "Never"}
    container["command"] = ["/bin/busybox", "sh", "-c", script]
    container["terminationMessagePolicy"] = "FallbackToLogsOnError"
    spec: Object = {"containers": [container], "terminationGracePeriodSeconds": 1, **pod}
    if not script:
        spec["schedulerName"] = NEVER_SCHEDULED
    return {"replicas": 1, "restartPolicy": "Never", "template": {"spec": spec}}


@pytest.fixture
def jobs(space: Space, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    monkeypatch.setattr(following, "_SETTLE_SECONDS", 0.5)
    monkeypatch.setattr(following, "_GLANCE_SECONDS", 0.3)
    monkeypatch.setattr(following, "_TICK_SECONDS", 0.1)
    found = Jobs(space)
    yield found
    found.api.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy(ADDRESS, 6443) as proxy:
        yield proxy


@pytest.fixture
def through(
    jobs: Jobs, proxy: Proxy, space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Api]:
    """The API through a connection that the test can break; ``jobs`` has its own."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig_through(proxy, space.kubeconfig, tmp_path)))
    found = Api.connect()
    yield found
    found.close()


def test_a_job_that_is_not_there_was_deleted(jobs: Jobs) -> None:
    end = jobs.follow("never-made").end
    assert (end.end, end.exit_code) == (End.DELETED, EXIT_BUG)


def test_a_namesake_is_not_taken_for_the_job(jobs: Jobs, through: Api, proxy: Proxy) -> None:
    jobs.create("a", queue=True)
    followed = jobs.follow("a", api=through)
    followed.says("queued")
    proxy.down()  # so that nobody sees the first one go
    jobs.api.delete(PYTORCHJOBS, "a")
    jobs.create("a", queue=True)
    proxy.up()
    assert followed.end.end is End.DELETED


def test_a_job_that_its_last_holder_left_is_left(jobs: Jobs) -> None:
    jobs.create("a", queue=True)
    followed = jobs.follow("a")
    followed.says("queued")
    jobs.api.patch(PYTORCHJOBS, "a", {"metadata": {"annotations": {"compose-rl/left": "terminated"}}})
    end = followed.end
    assert (end.end, end.reason) == (End.LEFT, "a: terminated")
    assert end.job["metadata"]["annotations"]["compose-rl/left"] == "terminated"
    assert followed.seen[-1] == end.job


def test_waiting_is_told_when_it_changes_and_not_again(jobs: Jobs) -> None:
    jobs.create("a", "")
    followed = jobs.follow("a")
    (pod,) = jobs.pods("a", 1)

    def no_place(message: str) -> None:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        write_status(jobs.space, pod, "Pending", conditions=[condition])
        followed.says(message)

    for _ in range(3):
        no_place("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
        no_place("0/4 nodes are available: 4 Insufficient nvidia.com/gpu.")
    assert sum("waiting for a place: 0/" in line for line in followed.lines) == 2


def test_the_time_for_starting_begins_with_a_place(jobs: Jobs) -> None:
    jobs.create("a", "")
    followed = jobs.follow("a", start_minutes=0.02, queue_minutes=10)
    (pod,) = jobs.pods("a", 1)
    followed.says("waiting for a place")
    time.sleep(2.5)  # longer than a start may take
    assert followed.is_alive()
    placed = {"type": "PodScheduled", "status": "True"}
    write_status(
        jobs.space, pod, "Pending", {"waiting": {"reason": "ContainerCreating"}}, conditions=[placed]
    )
    end = followed.end
    assert (end.over, end.exit_code, end.pod) == (False, EXIT_TRANSIENT, pod["metadata"]["name"])
    assert "start_minutes" in end.reason


def test_a_queue_that_takes_too_long_is_the_users_limit(jobs: Jobs) -> None:
    jobs.create("a", queue=True)
    end = jobs.follow("a", queue_minutes=0.02).end
    assert (end.end, end.over, end.exit_code, end.pod) == (End.FAILED, False, EXIT_USER, "")
    assert "queue_minutes" in end.reason


def test_a_secret_that_is_missing_ends_the_wait_at_once(jobs: Jobs) -> None:
    jobs.create("a", "")
    followed = jobs.follow("a")
    (pod,) = jobs.pods("a", 1)
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "hf" not found'}
    placed = {"type": "PodScheduled", "status": "True"}
    write_status(jobs.space, pod, "Pending", {"waiting": waiting}, conditions=[placed])
    end = followed.end
    assert (end.over, end.exit_code) == (False, EXIT_USER)
    assert 'secret "hf" not found; create what is missing' in end.reason


@pytest.mark.parametrize("watched", [True, False])
def test_a_pod_that_somebody_deletes_ends_the_job_of_its_peers(
    jobs: Jobs, through: Api, proxy: Proxy, watched: bool
) -> None:
    jobs.create("a", "", "")
    followed = jobs.follow("a", api=through)
    pods = jobs.pods("a", 2)
    for pod in pods:
        write_status(jobs.space, pod, "Running", RUNNING)
    followed.says("2 pods running")
    victim = pods[1]["metadata"]
    if not watched:
        proxy.down()
    jobs.space.admin.core.delete_namespaced_pod(victim["name"], jobs.space.namespace, grace_period_seconds=0)
    if not watched:
        while victim["uid"] in [pod["metadata"]["uid"] for pod in jobs.space.pods]:
            time.sleep(0.05)
        proxy.up()
    end = followed.end  # whether the operator ends the job or puts another pod in its place
    assert (end.end, end.exit_code) == (End.FAILED, EXIT_TRANSIENT)
    assert "deleted" in end.reason
    assert not watched or end.pod == victim["name"]


def test_pods_that_a_queue_takes_away_are_no_failure(jobs: Jobs) -> None:
    jobs.create("a", "")
    followed = jobs.follow("a")

    def suspend(value: bool) -> None:
        jobs.api.patch(PYTORCHJOBS, "a", {"spec": {"runPolicy": {"suspend": value}}})

    for round_ in range(1, 3):
        (pod,) = jobs.pods("a", 1)
        write_status(jobs.space, pod, "Running", RUNNING)
        followed.until(lambda n=round_: sum("1 pod running" in line for line in followed.lines) == n, "a run")
        suspend(True)
        jobs.pods("a", 0)
        time.sleep(1.5)  # longer than a failure takes to settle
        suspend(False)
    (pod,) = jobs.pods("a", 1)
    write_status(jobs.space, pod, "Succeeded", {"terminated": {"exitCode": 0, "reason": "Completed"}})
    assert followed.end.end is End.SUCCEEDED


def test_a_job_that_fails_over_pods_of_before_its_queue_let_it_go_may_pass(jobs: Jobs) -> None:
    jobs.create("a", "")
    followed = jobs.follow("a")
    (pod,) = jobs.pods("a", 1)
    write_status(jobs.space, pod, "Running", RUNNING)
    followed.until(lambda: any("1 pod running" in line for line in followed.lines), "a run")
    jobs.api.patch(PYTORCHJOBS, "a", {"spec": {"runPolicy": {"suspend": True}}})
    jobs.pods("a", 0)
    time.sleep(1.5)  # the follower sees the job without pods
    jobs.api.patch(PYTORCHJOBS, "a", {"spec": {"runPolicy": {"suspend": False}}})
    jobs.pods("a", 1)
    failed = {"type": "Failed", "status": "True", "reason": "PyTorchJobFailed", "message": "1 master failed"}
    jobs.space.admin.write_job_status(jobs.space.namespace, "a", {"conditions": [failed]})
    assert (followed.end.end, followed.end.exit_code) == (End.FAILED, EXIT_TRANSIENT)
    assert "its queue had taken away" in followed.end.reason


def test_a_node_that_does_not_answer_is_told_and_waited_for(jobs: Jobs) -> None:
    jobs.create("a", "")
    followed = jobs.follow("a")
    (pod,) = jobs.pods("a", 1)
    name = pod["metadata"]["name"]

    def ready(value: str) -> None:
        container = {"name": "pytorch", "image": "x", "imageID": "", "restartCount": 0, "ready": True}
        conditions = [{"type": kind, "status": value} for kind in ("Ready", "PodScheduled")]
        conditions[1]["status"] = "True"
        status = {"phase": "Running", "conditions": conditions, "containerStatuses": [container]}
        container["state"] = RUNNING
        jobs.space.admin.write_pod_status(jobs.space.namespace, name, status)

    ready("True")
    followed.says("1 pod running")
    assert not any("does not answer" in line for line in followed.lines)
    ready("False")
    followed.says(f"pod {name}: its node")
    time.sleep(1.5)  # longer than a failure takes to settle
    assert followed.is_alive()
    write_status(jobs.space, pod, "Succeeded", {"terminated": {"exitCode": 0, "reason": "Completed"}})
    assert followed.end.end is End.SUCCEEDED


def test_without_pods_the_reason_of_the_operator_is_told(
    jobs: Jobs, space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compose_rl.launch.kubernetes import starting

    monkeypatch.setattr(starting, "_ORDINARY_SECONDS", 1.0)
    monkeypatch.setattr(starting, "_ASK_SECONDS", 1.0)
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    space.admin.core.create_namespaced_resource_quota(space.namespace, quota)
    jobs.create("a", "")
    followed = jobs.follow("a")
    followed.says("exceeded quota: none")


@pytest.mark.node
def test_rank_0_is_shown_as_it_comes_to_its_last_line(jobs: Jobs) -> None:
    jobs.create("a", "echo first; sleep 2; echo out; echo err >&2; printf 'without an end'")
    followed = jobs.follow("a")
    followed.says("first")
    assert not any(line == "out" for line in followed.lines)  # live, not at the end
    assert followed.end.end is End.SUCCEEDED
    shown = followed.lines[followed.lines.index("first") :]
    assert sorted(shown) == sorted(["first", "out", "err", "without an end"])


@pytest.mark.node
def test_a_log_survives_connections_that_break_with_every_line_once(
    jobs: Jobs, through: Api, proxy: Proxy
) -> None:
    count = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; [ $((i%30)) = 0 ] && sleep 0.5; done; :"
    jobs.create("a", count)
    followed = jobs.follow("a", api=through)
    followed.says("line 30")
    for _ in range(4):
        proxy.break_connections()
        time.sleep(0.4)
    proxy.down()
    time.sleep(1)
    proxy.up()
    assert followed.end.end is End.SUCCEEDED
    shown = [line for line in followed.lines if line.startswith("line ")]
    assert shown == [f"line {i}" for i in range(1, 301)]


@pytest.mark.node
def test_of_a_job_that_is_joined_late_the_last_lines_are_shown(jobs: Jobs) -> None:
    jobs.create("a", "for i in $(seq 1 100); do echo line $i; done; sleep 5; echo last")
    first = jobs.follow("a")
    first.says("line 100")
    second = jobs.follow("a", adopted=True)
    assert second.end.end is End.SUCCEEDED
    shown = [line for line in second.lines if line.startswith(("line ", "last"))]
    assert shown == [*(f"line {i}" for i in range(81, 101)), "last"]


@pytest.mark.node
def test_a_worker_that_dies_is_seen_and_heard_while_the_master_hangs(jobs: Jobs) -> None:
    jobs.create("a", "echo master; sleep 600", "sleep 1; echo before; echo No space left on device; exit 3")
    followed = jobs.follow("a")
    end = followed.end
    assert (end.end, end.exit_code, end.pod) == (End.FAILED, EXIT_BUG, "a-worker-0")
    assert end.reason.startswith("pod a-worker-0: exit code 3") and "a disk is full" in end.reason
    assert "master" in followed.lines
    assert followed.lines[-2:] == ["[a-worker-0] before", "[a-worker-0] No space left on device"]


@pytest.mark.node
def test_the_termination_message_is_the_reason(jobs: Jobs) -> None:
    jobs.create("a", "echo working; echo 'lr=-1: must be positive' > /dev/termination-log; exit 2")
    end = jobs.follow("a").end
    assert (end.exit_code, end.reason) == (EXIT_USER, "pod a-master-0: lr=-1: must be positive")


@pytest.mark.node
def test_a_job_that_ran_too_long_names_the_users_limit(jobs: Jobs) -> None:
    jobs.create("a", "echo working; sleep 600", activeDeadlineSeconds=3)
    end = jobs.follow("a").end
    assert (end.end, end.exit_code, end.outside) == (End.FAILED, EXIT_USER, True)
    assert "raise deadline_minutes" in end.reason
