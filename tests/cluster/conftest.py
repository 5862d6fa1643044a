"""A real cluster, and in it a namespace for each test. README.md says how to use and watch it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "tools"), str(HERE.parent / "s3"), str(HERE.parent / "toy")]

import building
import down
import processes
import server
import train_pods
import up
from clients import Admin
from launching import Launchers
from places import BUCKET, S3_URL
from space import Space, make_space
from workflows import workflows_served

NEVER_SCHEDULED = "by-hand"
"""A scheduler that does not exist: the pods of a job stay as they are until the test writes their status."""


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[str]:
    """The level of a running cluster: the one that is up if it will do, else one started for these tests."""
    needed = "node" if any(item.get_closest_marker("node") for item in request.session.items) else "api"
    if processes.runs("etcd"):
        # Another session's test may have stopped its API server for a while.
        processes.until(lambda: up.level() is not None, "the API server of the cluster that is up", 180)
        found = str(up.level())
        if needed == "node" and found == "api":
            pytest.exit("the cluster that is up runs no pods: take it down, or run -m 'not node'", 1)
        yield found
        return
    try:
        up.up(needed)
        yield needed
    except building.CannotError as reason:
        pytest.exit(f"no test cluster: {reason}", returncode=1)
    finally:
        down.down()


@pytest.fixture(scope="session")
def admin(cluster: str) -> Admin:
    """The cluster as its administrator sees it. What is under test never runs as this one."""
    return Admin()


@pytest.fixture(scope="session")
def trainers(cluster: str) -> dict[str, object]:
    """The part of ``Resources`` with which the training environment of this checkout runs in pods."""
    return train_pods.resources()


@pytest.fixture(scope="session")
def pipelines(admin: Admin) -> Iterator[None]:
    """Argo's Workflows are a kind that the API knows."""
    with workflows_served(admin):
        yield


@pytest.fixture
def space(
    admin: Admin, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Space]:
    """A namespace of this test alone, removed at its end, and what a launcher in it needs.

    This process, too, gets the launcher's kubeconfig, environment and cache.
    """
    storage = {**server.CREDENTIALS, "AWS_REGION": server.REGION, "AWS_ENDPOINT_URL": S3_URL}
    storage["AWS_DEFAULT_REGION"] = server.REGION
    found = make_space(admin, request.node.name, tmp_path, storage, f"s3://{BUCKET}")
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "S3_ENDPOINT_URL", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    try:
        yield found
    finally:
        admin.core.delete_namespace(found.namespace, grace_period_seconds=0)


@pytest.fixture
def node_launchers(space: Space, trainers: dict[str, object], tmp_path: Path) -> Iterator[Launchers]:
    """Starts launchers of the toy stage whose pods run."""
    with Launchers(space, trainers, tmp_path) as launchers:
        yield launchers


@pytest.fixture
def api_launchers(space: Space, tmp_path: Path) -> Iterator[Launchers]:
    """Starts launchers of the toy stage whose pods never run: the test writes their status."""
    resources = {"image": "docker.io/local/none:1", "scheduler_name": NEVER_SCHEDULED}
    with Launchers(space, resources, tmp_path) as launchers:
        yield launchers


def pytest_configure(config: pytest.Config) -> None:
    os.environ.pop("KUBECONFIG", None)  # nobody's own cluster is ever touched


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of what was covered: scenario, test, result."""
    rows: dict[str, tuple[str, str]] = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.getreports(outcome):
            scenario = dict(getattr(report, "user_properties", [])).get("scenario")
            if scenario and (outcome != "passed" or report.when == "call"):
                rows[report.nodeid.rpartition("/")[2]] = (str(scenario), outcome)
    if not rows:
        return
    terminalreporter.section("what was covered")
    width = max(len(scenario) for scenario, _ in rows.values())
    for test, (scenario, outcome) in rows.items():
        terminalreporter.line(f"{outcome:8}{scenario:{width}}  {test}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marker = item.get_closest_marker("scenario")
        if marker is not None:
            item.user_properties.append(("scenario", marker.args[0]))
