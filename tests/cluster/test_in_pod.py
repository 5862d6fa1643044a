"""The API client inside a pod, as a step of a pipeline has it: by its service account."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from space import LAUNCHER, Space

CONTROL = Path(__file__).parents[2] / ".venvs/control"
ASKED = """
from compose_rl.launch.kubernetes.api import Api
from compose_rl.launch.kubernetes.resource import PYTORCHJOBS
api = Api.connect()
print(api.namespace, len(api.list(PYTORCHJOBS)[0]))
"""


@pytest.mark.node
def test_a_pod_reaches_the_api_as_its_service_account(space: Space, trainers: dict[str, object]) -> None:
    container = {
        "name": "launcher",
        "image": trainers["image"],
        "imagePullPolicy": "Never",
        "command": [str(CONTROL / "bin/python"), "-c", ASKED],
        "volumeMounts": trainers["volume_mounts"],
    }
    spec = {
        "serviceAccountName": LAUNCHER,
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": trainers["volumes"],
    }
    core = space.admin.core
    core.create_namespaced_pod(space.namespace, {"metadata": {"name": "step"}, "spec": spec})
    end = time.monotonic() + 60
    while (phase := core.read_namespaced_pod("step", space.namespace).status.phase) in ("Pending", "Running"):
        assert time.monotonic() < end, phase
        time.sleep(0.2)
    assert core.read_namespaced_pod_log("step", space.namespace).split() == [space.namespace, "0"]
    assert phase == "Succeeded"
