"""A job on the cluster whose storage fails 5 % of the requests, for its launcher and its trainers."""

from __future__ import annotations

import pytest
from flaky import flaky
from launching import Launchers
from places import ADDRESS, S3_URL
from space import Space

from compose_rl.store import open_store


@pytest.mark.node
@pytest.mark.scenario("S3 that fails 5 % of requests")
def test_a_job_runs_through_a_flaky_storage(node_launchers: Launchers, space: Space) -> None:
    with flaky(S3_URL, rate=0.05, host=ADDRESS, slow_seconds=1) as (url, proxy):
        for number in range(3):
            config = {"text": f"flaky {number}", "checkpoint": True, "pause": 3.0}
            launcher = node_launchers.toy(config, env={"AWS_ENDPOINT_URL": url}, lease_minutes=0.5)
            assert launcher.wait(120) == 0, launcher.output
    assert proxy.spoiled, f"of {proxy.requests} requests"
    found = [entry.path for entry in open_store(space.storage).list("toy")]
    assert sum(path.endswith("manifest.json") for path in found) == 3
