"""What makes a job of real pods fail, and what its launcher says of it."""

from __future__ import annotations

import signal

import pytest
from launching import Launcher, Launchers
from registry import empty_registry
from space import Space

from compose_rl.errors import EXIT_BUG, EXIT_USER

pytestmark = pytest.mark.node
FOR_EVER = 900.0


def error_line(launcher: Launcher) -> str:
    """The launcher's own, after what the pods said."""
    return [line for line in launcher.output.splitlines() if line.startswith("error: ")][-1]


def no_pod_runs(space: Space) -> bool:
    return not any(pod["status"]["phase"] in ("Pending", "Running") for pod in space.pods)


@pytest.mark.scenario("failure of the master")
def test_a_master_that_fails_ends_the_job(node_launchers: Launchers, space: Space) -> None:
    launcher = node_launchers.toy({"fail": "bug", "fail_rank": 0, "pause": FOR_EVER}, nodes=2)
    assert launcher.wait(120) == EXIT_BUG
    assert "ZeroDivisionError: asked for" in launcher.output  # the rank's own traceback
    assert "ZeroDivisionError" in error_line(launcher)
    node_launchers.until(lambda: no_pod_runs(space), "no running pod")
    assert len(space.jobs) == 1


@pytest.mark.scenario("failure of a worker while the master hangs")
def test_a_worker_that_fails_is_seen_while_the_master_hangs(node_launchers: Launchers, space: Space) -> None:
    launcher = node_launchers.toy({"fail": "bug", "fail_rank": 1, "pause": FOR_EVER}, nodes=2)
    assert launcher.wait(120) == EXIT_BUG
    assert "ZeroDivisionError" in error_line(launcher)
    node_launchers.until(lambda: no_pod_runs(space), "no running pod")
    assert len(space.jobs) == 1


@pytest.mark.scenario("bad input is not tried again")
def test_bad_input_found_by_the_job_ends_the_step(node_launchers: Launchers, space: Space) -> None:
    launcher = node_launchers.toy({"fail": "user"})
    assert launcher.wait() == EXIT_USER
    assert "toy: fail=user: asked for; leave it out" in error_line(launcher)
    assert len(space.jobs) == 1


@pytest.mark.scenario("OOMKilled")
def test_a_pod_that_takes_too_much_memory_is_named(node_launchers: Launchers, space: Space) -> None:
    launcher = node_launchers.toy({"fail": "memory"}, memory="150Mi")
    assert launcher.wait() == EXIT_USER
    assert "OOMKilled: used more memory than its limit of 150Mi" in error_line(launcher)
    assert len(space.jobs) == 1


@pytest.mark.scenario("image that cannot be pulled")
def test_an_image_that_no_registry_has_is_named(node_launchers: Launchers, space: Space) -> None:
    with empty_registry() as address:
        image = f"{address}/train:1"
        launcher = node_launchers.toy(image=image, image_pull_policy="Always")
        assert launcher.wait(120) == EXIT_USER
        assert image in error_line(launcher)
        assert "image_pull_secrets" in error_line(launcher)
    node_launchers.until(lambda: no_pod_runs(space), "no pod")


@pytest.mark.scenario("image that may not be pulled")
def test_an_image_that_is_not_on_the_node_is_named(node_launchers: Launchers) -> None:
    launcher = node_launchers.toy(image="docker.io/local/absent:1", image_pull_policy="Never")
    assert launcher.wait() == EXIT_USER
    assert "ErrImageNeverPull" in error_line(launcher)


@pytest.mark.scenario("unschedulable")
@pytest.mark.parametrize(
    ("asked", "missing"),
    [
        ({"cpu": "64"}, "Insufficient cpu"),
        ({"gpus_per_node": 8}, "Insufficient nvidia.com/gpu"),
        ({"node_selector": {"disk": "none"}}, "didn't match Pod's node affinity/selector"),
    ],
)
def test_what_fits_no_node_is_shown_at_once(
    node_launchers: Launchers, asked: dict[str, object], missing: str
) -> None:
    launcher = node_launchers.toy(**asked)
    launcher.says(missing, seconds=20)
    assert launcher.terminate() == 128 + signal.SIGTERM


@pytest.mark.scenario("no place in time")
def test_a_job_that_finds_no_place_is_given_up(node_launchers: Launchers, space: Space) -> None:
    launcher = node_launchers.toy(cpu="64", queue_minutes=0.1, tries=1)
    assert launcher.wait() == EXIT_USER
    assert "Insufficient cpu" in error_line(launcher)
    node_launchers.until(lambda: space.pods == [], "no pod")


@pytest.mark.scenario("secret missing")
def test_a_secret_that_is_missing_is_named(node_launchers: Launchers, space: Space) -> None:
    launcher = node_launchers.toy(secrets=["hub-token"])
    assert launcher.wait() == EXIT_USER
    assert "hub-token" in error_line(launcher)
    node_launchers.until(lambda: space.pods == [], "no pod")


@pytest.mark.scenario("deadline")
def test_a_job_that_runs_too_long_is_ended(node_launchers: Launchers, space: Space) -> None:
    launcher = node_launchers.toy({"pause": FOR_EVER}, deadline_minutes=0.1)
    assert launcher.wait(120) == EXIT_USER
    assert "deadline_minutes" in error_line(launcher)
    node_launchers.until(lambda: no_pod_runs(space), "no running pod")
