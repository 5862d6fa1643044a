"""The part of the kubelet and of the trainer, played by the test where no pod runs."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clients import Object
from launching import Launcher
from space import Space

TOY = Path(__file__).parents[1] / "toy"
CONTAINER = "pytorch"


def new_pods(space: Space, launcher: Launcher, count: int = 1) -> list[Object]:
    """Wait for the pods that the operator makes; by rank."""
    launcher.until(lambda: len(space.pods) == count, f"{count} pods")
    return sorted(space.pods, key=lambda pod: pod["metadata"]["name"])


def write_status(space: Space, pod: Object, phase: str, container: Object | None = None, **more: Any) -> None:
    """Set a pod's status.

    Args:
        container: the state of its container, for instance ``{"waiting": {...}}``.
    """
    placed = {"type": "PodScheduled", "status": "True"}
    status: Object = {"phase": phase, "conditions": [placed], **more}
    if container is not None:
        if "terminated" in container:
            now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
            container = {"terminated": {"startedAt": now, "finishedAt": now, **container["terminated"]}}
        described = {"name": CONTAINER, "image": "x", "imageID": "", "ready": False, "restartCount": 0}
        status["containerStatuses"] = [{**described, "state": container}]
    space.admin.write_pod_status(space.namespace, pod["metadata"]["name"], status)


def succeed(space: Space, pod: Object) -> None:
    """Run the stage of the pod's job here, then say that the pod did."""
    (job,) = [job for job in space.jobs if pod["metadata"]["name"].startswith(job["metadata"]["name"])]
    words = ["-m", "toy_stage", "--job", job["metadata"]["annotations"]["compose-rl/job"]]
    environment = {**os.environ, "PYTHONPATH": str(TOY)}
    subprocess.run([sys.executable, *words], env=environment, check=True, timeout=60)
    write_status(space, pod, "Succeeded", {"terminated": {"exitCode": 0, "reason": "Completed"}})
