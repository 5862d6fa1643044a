"""Pods as the API server shows them (fields that nobody reads left out), and what is said of them."""

from __future__ import annotations

from typing import Any

import pytest

from compose_rl.launch.kubernetes import podview
from compose_rl.launch.kubernetes.reasons import cause, from_log, node_lost, pod_cause

Pod = dict[str, Any]
CONTAINER = "pytorch"


def pod(name: str, *, phase: str = "Running", status: Pod | None = None, **metadata: Any) -> Pod:
    container = {"name": CONTAINER, "image": "i", "resources": {"limits": {"memory": "64Gi", "cpu": "8"}}}
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "labels": {}, **metadata},
        "spec": {"nodeName": "node-1", "containers": [container]},
        "status": {"phase": phase, "startTime": "2026-11-24T18:00:00Z", **(status or {})},
    }


def running(name: str, **metadata: Any) -> Pod:
    state = {"running": {"startedAt": "2026-11-24T18:00:05Z"}}
    conditions = [
        {"type": "PodScheduled", "status": "True"},
        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-24T18:00:05Z"},
    ]
    containers = [{"name": CONTAINER, "ready": True, "state": state}]
    status = {"conditions": conditions, "containerStatuses": containers}
    return pod(name, status=status, **metadata)


def ended(name: str, code: int, *, second: int = 10, reason: str = "", message: str = "", **metadata: Any):
    end = {
        "exitCode": code,
        "reason": reason or ("Completed" if code == 0 else "Error"),
        "startedAt": "2026-11-24T18:00:05Z",
        "finishedAt": f"2026-11-24T18:01:{second:02}Z",
    }
    if message:
        end["message"] = message
    status = {"containerStatuses": [{"name": CONTAINER, "ready": False, "state": {"terminated": end}}]}
    return pod(name, phase="Succeeded" if code == 0 else "Failed", status=status, **metadata)


def disrupted(name: str, reason: str, message: str = "") -> Pod:
    found = running(name)
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
    found["status"]["conditions"].append({**condition, "lastTransitionTime": "2026-11-24T18:01:00Z"})
    return found


@pytest.mark.parametrize(
    "found, exit_code, words",
    [
        (ended("a", 1, message="rank 0: exit code 1"), 1, "exit code 1: rank 0: exit code 1"),
        (ended("a", 7), 1, "exit code 7"),
        (
            ended("a", 7, message="Error on reading termination message from logs: no such file"),
            1,
            "exit code 7",
        ),
        (ended("a", 2, message="lr=-1: must be positive"), 2, "lr=-1: must be positive"),
        (ended("a", 75, message="s3://b: slow down"), 75, "s3://b: slow down"),
        (ended("a", 137, reason="OOMKilled"), 2, "OOMKilled: used more memory than its limit of 64Gi"),
        (ended("a", 137), 1, "SIGKILL, though not for its memory limit"),
        (ended("a", 139), 1, "segmentation fault"),
        (ended("a", 135), 1, "raise shm"),
        (ended("a", 127), 2, "the command is not in the image"),
        (ended("a", 143), 75, "told to stop"),
        (ended("a", 128, reason="StartError", message="no /bin/x"), 2, "could not start: no /bin/x"),
        (ended("a", 137, reason="ContainerStatusUnknown", message="?"), 75, "lost sight of it"),
    ],
)
def test_a_container_that_ended_says_why(found: Pod, exit_code: int, words: str):
    seen = pod_cause(found, CONTAINER)
    assert seen is not None
    assert (seen.exit_code, seen.pod) == (exit_code, "a")
    assert words in seen.reason and "\n" not in seen.reason
    assert "termination message" not in seen.reason


@pytest.mark.parametrize(
    "reason, message, exit_code, words",
    [
        ("Evicted", "The node was low on resource: memory.", 75, "low on resource: memory"),
        ("Evicted", 'Usage of EmptyDir volume "shm" exceeds the limit "1Gi". ', 2, "raise that limit (shm"),
        (
            "Evicted",
            "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi.",
            2,
            "ephemeral-storage",
        ),
        (
            "Terminated",
            "Pod was terminated in response to imminent node shutdown.",
            75,
            "its node is shutting down",
        ),
        ("OutOfcpu", "Node didn't have enough resource: cpu", 75, "no place for it"),
        ("UnexpectedAdmissionError", "Allocate failed: no healthy GPU", 75, "no healthy GPU"),
        ("DeadlineExceeded", "Pod was active on the node longer than the deadline", 2, "deadline_minutes"),
        ("NodeLost", "Node n-1 which was running pod a is unresponsive", 75, "its node was lost"),
    ],
)
def test_a_pod_that_its_node_ended_says_why(reason: str, message: str, exit_code: int, words: str):
    seen = pod_cause(pod("a", phase="Failed", status={"reason": reason, "message": message}), CONTAINER)
    assert seen is not None
    assert (seen.exit_code, seen.outside) == (exit_code, True)
    assert words in seen.reason


@pytest.mark.parametrize(
    "reason, words",
    [
        ("PreemptionByScheduler", "preempted by a pod of higher priority"),
        ("DeletionByTaintManager", "its node was lost"),
        ("EvictionByEvictionAPI", "drained"),
        ("TerminationByKubelet", "ended by its node: low on disk"),
    ],
)
def test_a_disrupted_pod_may_pass_whatever_its_container_said(reason: str, words: str):
    found = disrupted("a", reason, "low on disk")
    for code in (None, 1, 2, 137):
        if code is not None:
            found["status"] |= ended("a", code)["status"] | {"conditions": found["status"]["conditions"]}
        seen = pod_cause(found, CONTAINER)
        assert seen is not None
        assert (seen.exit_code, seen.outside, seen.transient) == (75, True, True)
        assert words in seen.reason


def test_pods_that_run_or_have_succeeded_are_no_cause():
    finished = ended("b", 0)
    finished["status"]["conditions"] = disrupted("b", "EvictionByEvictionAPI")["status"]["conditions"]
    assert pod_cause(running("a"), CONTAINER) is None
    assert pod_cause(finished, CONTAINER) is None
    assert pod_cause({"metadata": {"name": "c", "uid": "u"}, "spec": {}}, CONTAINER) is None
    assert cause([running("a"), finished], CONTAINER) is None


def test_a_sidecar_of_the_trainer_is_no_cause():
    found = running("a")
    side = {"name": "istio-proxy", "state": {"terminated": {"exitCode": 1, "finishedAt": None}}}
    found["status"]["containerStatuses"].insert(0, side)
    assert pod_cause(found, CONTAINER) is None


def test_an_init_container_that_failed_is_the_cause():
    found = pod("a", phase="Failed")
    end = {"exitCode": 1, "reason": "Error", "message": "no master", "finishedAt": "2026-11-24T18:01:00Z"}
    found["status"]["initContainerStatuses"] = [{"name": "init-pytorch", "state": {"terminated": end}}]
    seen = pod_cause(found, CONTAINER)
    assert seen is not None and "no master" in seen.reason


def test_the_first_pod_that_failed_is_the_cause():
    pods = [ended("b", 1, second=40), ended("a", 1, second=20, message="first"), ended("c", 1, second=30)]
    seen = cause(pods, CONTAINER)
    assert seen is not None
    assert (seen.pod, seen.uid, seen.reason) == ("a", "uid-a", "exit code 1: first")


def test_of_pods_that_went_at_the_same_time_the_one_given_first_is_the_cause():
    pods = [running(name, deletionTimestamp="2026-11-24T18:01:40Z") for name in ("b", "a")]
    for order in (pods, pods[::-1]):
        seen = cause(order, CONTAINER)
        assert seen is not None and seen.pod == order[0]["metadata"]["name"]


def test_what_the_cluster_did_explains_more_than_the_peers_error_of_the_same_moment():
    pods = [
        ended("a", 1, second=20, message="connection closed"),
        ended("b", 137, second=22, reason="OOMKilled"),
    ]
    seen = cause(pods, CONTAINER)
    assert seen is not None and seen.pod == "b"
    pods[1] = ended("b", 137, second=50, reason="OOMKilled")  # not of the same moment
    seen = cause(pods, CONTAINER)
    assert seen is not None and seen.pod == "a"


def test_a_users_error_explains_more_than_the_bug_it_makes_of_a_peer():
    pods = [ended("a", 1, second=20), ended("b", 2, second=21, message="bad row")]
    seen = cause(pods, CONTAINER)
    assert seen is not None and (seen.pod, seen.exit_code) == ("b", 2)


def test_a_pod_was_told_to_end_when_it_was_first_asked_to():
    """As Kubernetes 1.34 shows a pod that was deleted with its job, at last when its node has ended it."""
    first = running("a", deletionTimestamp="2026-11-24T18:06:27Z", deletionGracePeriodSeconds=300)
    removed: Pod = {"deletionTimestamp": "2026-11-24T18:01:28Z", "deletionGracePeriodSeconds": 0}
    last = ended("a", 75, second=27, message="told to stop (SIGTERM)", **removed)
    seen = pod_cause(podview.as_first_asked(last, podview.as_first_asked(first, running("a"))), CONTAINER)
    assert seen is not None and seen.victim
    itself = pod_cause(podview.as_first_asked(last, running("a")), CONTAINER)
    assert itself is not None and not itself.victim
    assert podview.as_first_asked(last, None) == last


def test_a_pod_that_was_taken_away_before_it_started_is_not_the_cause():
    """The same Kubernetes, of a pod in the place of one that was being deleted."""
    removed = {"deletionTimestamp": "2026-11-24T18:06:27Z", "deletionGracePeriodSeconds": 300}
    found = ended("a", 137, reason="ContainerStatusUnknown", message="could not be located", **removed)
    found["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = None
    seen = pod_cause(found, CONTAINER)
    assert seen is not None and seen.victim
    seen = cause([found, ended("b", 1, second=40)], CONTAINER)
    assert seen is not None and seen.pod == "b"


def test_pods_that_were_told_to_end_are_not_the_cause():
    removed = {"deletionTimestamp": "2026-11-24T18:01:40Z", "deletionGracePeriodSeconds": 30}  # asked at :10
    victims = [
        ended("b", 143, second=9),
        ended("c", 75, second=10, **removed),
        ended("d", 137, second=40, **removed),
        ended("e", 1, second=11, **removed),
    ]
    seen = cause([*victims, ended("a", 1, second=10, message="the bug")], CONTAINER)
    assert seen is not None and (seen.pod, seen.victim) == ("a", False)


def test_a_pod_that_failed_before_it_was_removed_is_the_cause():
    removed = {"deletionTimestamp": "2026-11-24T18:01:50Z", "deletionGracePeriodSeconds": 30}  # asked at :20
    seen = cause([ended("a", 137, second=10, **removed)], CONTAINER)
    assert seen is not None and not seen.victim


def test_a_pod_that_was_deleted_may_pass():
    seen = cause([running("a", deletionTimestamp="2026-11-24T18:01:40Z"), running("b")], CONTAINER)
    assert seen is not None
    assert (seen.pod, seen.exit_code, seen.victim) == ("a", 75, True)
    assert "deleted" in seen.reason


def test_a_peers_network_error_is_put_down_to_the_node_that_is_lost():
    lost = running("b")
    lost["status"]["conditions"][1] |= {"status": "False"}
    assert node_lost(lost) and not node_lost(running("b"))
    assert cause([lost, running("a")], CONTAINER) is None  # it may come back
    seen = cause([lost, ended("a", 1, message="NCCL remote error")], CONTAINER)
    assert seen is not None
    assert (seen.pod, seen.exit_code, seen.outside) == ("b", 75, True)
    assert "node-1 does not answer" in seen.reason


def test_of_a_log_in_place_of_a_message_the_telling_line_is_taken():
    log = (
        "step 10\n[rank1]:[E] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)\n"
        "terminate called\n\n"
    )
    seen = pod_cause(ended("a", 134, message=log), CONTAINER)
    assert seen is not None
    assert "NCCL time-out" in seen.reason and "SeqNum=7" in seen.reason and "\n" not in seen.reason
    seen = pod_cause(ended("a", 1, message="one\ntwo\n\n"), CONTAINER)
    assert seen is not None and seen.reason == "exit code 1: two"


@pytest.mark.parametrize(
    "line, words",
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "the GPU is out of memory"),
        ("RuntimeError: DataLoader worker (pid 9) is killed by signal: Bus error.", "/dev/shm is full"),
        ("OSError: [Errno 28] No space left on device", "a disk is full"),
        ("ncclSystemError: System call failed", "NCCL failed"),
        ("CUDA error: uncorrectable ECC error encountered", "a GPU is broken"),
    ],
)
def test_the_log_gives_the_reason(line: str, words: str):
    assert from_log(["fine", line, "after"]).startswith(words)
    assert line in from_log([line])
    assert from_log(["fine", "nothing here"]) == ""
