from __future__ import annotations

from typing import Any

import pytest

from compose_rl.launch.kubernetes.waiting import Obstacle, Stage, pod_stage, pods_line, workload_line


def pod(*, node: str = "node-1", phase: str = "Pending", waiting: dict[str, str] | None = None) -> Any:
    found: dict[str, Any] = {"metadata": {"name": "a", "uid": "u"}, "spec": {}, "status": {"phase": phase}}
    if node:
        found["spec"]["nodeName"] = node
        found["status"]["conditions"] = [{"type": "PodScheduled", "status": "True"}]
    if waiting is not None:
        found["status"]["containerStatuses"] = [{"name": "pytorch", "state": {"waiting": waiting}}]
    return found


def test_a_pod_that_fits_nowhere_says_what_the_scheduler_says():
    message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    found = pod(node="")
    found["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    ]
    assert pod_stage(found) == Obstacle(Stage.PLACE, message)
    del found["status"]["conditions"]
    assert pod_stage(found).stage is Stage.PLACE


@pytest.mark.parametrize(
    "reason, message, remedy, at_once, exit_code",
    [
        ("CreateContainerConfigError", 'secret "hf" not found', "create what is missing", True, 2),
        ("CreateContainerConfigError", 'secret "crl-x-1-rollout-a0" not found', "create what", False, 2),
        ("CreateContainerConfigError", "failed to sync secret cache: timed out", "", True, 0),
        ("InvalidImageName", "couldn't parse image name", "mend the image's name", True, 2),
        ("ErrImageNeverPull", "is not present with pull policy of Never", "image_pull_policy", True, 2),
        ("ErrImagePull", "pull access denied, repository does not exist", "image_pull_secrets", False, 2),
        ("ErrImagePull", "dial tcp 10.0.0.1:443: i/o timeout", "image_pull_secrets", False, 75),
        ("ContainerCreating", "", "", True, 0),
    ],
)
def test_what_stands_in_the_way_of_a_start(
    reason: str, message: str, remedy: str, at_once: bool, exit_code: int
):
    found = pod_stage(pod(waiting={"reason": reason, "message": message}))
    assert found.stage is Stage.START
    assert message in found.text
    assert remedy in found.remedy and bool(found.remedy) == bool(remedy)
    assert (found.grace_seconds == 0) == at_once
    assert found.exit_code == exit_code


def test_a_missing_image_is_given_up_sooner_than_a_registry_that_is_away():
    missing = pod_stage(pod(waiting={"reason": "ErrImagePull", "message": "manifest unknown"}))
    away = pod_stage(pod(waiting={"reason": "ErrImagePull", "message": "no such host"}))
    assert 0 < missing.grace_seconds < away.grace_seconds


def test_the_pull_and_the_pause_before_the_next_pull_are_one_trouble():
    pull = {"reason": "ErrImagePull", "message": 'failed to resolve "r.io/a:1": not found'}
    pause = {
        "reason": "ImagePullBackOff",
        "message": f'Back-off pulling image "r.io/a:1": ErrImagePull: {pull["message"]}',
    }
    assert pod_stage(pod(waiting=pull)) == pod_stage(pod(waiting=pause))
    short = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "r.io/a:1"'}  # before 1.31
    assert pod_stage(pod(waiting=short)).text == 'ImagePullBackOff: Back-off pulling image "r.io/a:1"'


def test_a_pod_runs_when_none_of_its_containers_waits():
    found = pod(phase="Running")
    assert pod_stage(found).stage is Stage.START  # its node has not said anything yet
    found["status"]["containerStatuses"] = [{"name": "pytorch", "state": {"running": {}}}]
    assert pod_stage(found) == Obstacle(Stage.RUN)
    assert pod_stage(pod(phase="Failed")) == Obstacle(Stage.RUN)


def test_the_container_that_cannot_start_shows_before_those_that_wait_for_it():
    found = pod(waiting={"reason": "PodInitializing"})
    broken = {"reason": "InvalidImageName", "message": "no"}
    found["status"]["initContainerStatuses"] = [{"name": "init", "state": {"waiting": broken}}]
    assert pod_stage(found).remedy == "mend the image's name"
    statuses = found["status"]
    statuses["containerStatuses"], statuses["initContainerStatuses"] = (
        statuses["initContainerStatuses"],
        statuses["containerStatuses"],
    )
    assert pod_stage(found).remedy == "mend the image's name"


def test_one_line_says_how_far_all_pods_are():
    no_place = Obstacle(Stage.PLACE, "no GPU")
    assert pods_line([Obstacle(Stage.RUN), no_place, no_place]) == "2 of 3 pods waiting for a place: no GPU"
    assert pods_line([Obstacle(Stage.START, "pulling")]) == "1 of 1 pods starting: pulling"
    assert pods_line([Obstacle(Stage.RUN)]) == "1 of 1 pods running"
    assert pods_line([]) == ""


def test_a_queue_says_why_it_waits():
    message = "couldn't assign flavors to pod set master: insufficient unused quota for nvidia.com/gpu"
    reserved = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": message}
    assert workload_line({"status": {"conditions": [reserved]}}) == message
    evicted = {"type": "Evicted", "status": "True", "message": "Preempted to accommodate a workload"}
    assert workload_line({"status": {"conditions": [reserved, evicted]}}) == evicted["message"]
    admitted = [{"type": each, "status": "True", "message": "ok"} for each in ("QuotaReserved", "Admitted")]
    assert workload_line({"status": {"conditions": admitted}}) == ""
    assert workload_line({}) == ""
