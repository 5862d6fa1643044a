"""One job per key, shared: launchers as processes, jobs on a real control plane."""

from __future__ import annotations

import pytest
from launching import Launchers
from space import Space


@pytest.mark.node
@pytest.mark.scenario("success")
def test_a_stage_becomes_a_job_and_gives_its_result(node_launchers: Launchers, space: Space) -> None:
    launcher = node_launchers.toy({"text": "on the cluster"})
    assert launcher.wait() == 0
    (job,) = space.jobs
    assert "manifest: " in launcher.output
