"""Whether an image can be pulled and starts under our pods' security context: a short-lived pod tries it."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator, Sequence
from functools import partial

from compose_rl.config.resources import SCRATCH, Resources
from compose_rl.errors import TransientError, UserError
from compose_rl.launch.kubernetes import naming
from compose_rl.launch.kubernetes.api import Api
from compose_rl.launch.kubernetes.pods import container_security, pod_security
from compose_rl.launch.kubernetes.reasons import pod_cause
from compose_rl.launch.kubernetes.resource import PODS, Object
from compose_rl.launch.kubernetes.waiting import pod_stage
from compose_rl.launch.preflight.finding import Check

__all__ = ["checks"]

_CONTAINER = "try"
_PAUSE_SECONDS = 1.0


def checks(api: Api, images: Sequence[str], resources: Resources) -> Iterator[Check]:
    """A check for each image."""
    for image in images:
        yield Check("image", partial(_try, api, image, resources))


def _try(api: Api, image: str, resources: Resources) -> str:
    pod = api.create(PODS, _pod(image, resources))
    metadata = pod["metadata"]
    started = time.monotonic()
    try:
        _wait(api, metadata["name"], image, 60 * resources.start_minutes)
    finally:
        with contextlib.suppress(UserError, TransientError):
            api.delete(PODS, metadata["name"], uid=metadata["uid"])
    return f"{image}: pulled and started, {time.monotonic() - started:.0f} s"


def _pod(image: str, resources: Resources) -> Object:
    """On a node of the trainers' kind, and without a GPU."""
    container: Object = {
        "name": _CONTAINER,
        "image": image,
        "command": ["compose-rl", "--help"],
        "resources": {
            "requests": {"cpu": "50m", "memory": "64Mi"},
            "limits": {"cpu": "1", "memory": "512Mi"},
        },
        "volumeMounts": [{"name": "scratch", "mountPath": SCRATCH}],
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if resources.image_pull_policy:
        container["imagePullPolicy"] = resources.image_pull_policy
    spec: Object = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "activeDeadlineSeconds": round(60 * resources.start_minutes),
        "terminationGracePeriodSeconds": 0,
        "securityContext": pod_security(resources.run_as_user),
        "containers": [container],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
        "imagePullSecrets": [{"name": name} for name in resources.image_pull_secrets],
        "nodeSelector": dict(resources.node_selector),
        "tolerations": [*resources.tolerations],
    }
    if resources.service_account:
        spec["serviceAccountName"] = resources.service_account
    name = f"crl-preflight-{secrets.token_hex(4)}"
    labels = {naming.APP_LABEL: naming.APP, "sidecar.istio.io/inject": "false"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


def _wait(api: Api, name: str, image: str, seconds: float) -> None:
    """Until the pod has succeeded.

    Raises:
        UserError: it failed, or waits in vain.
    """
    end = time.monotonic() + seconds
    stuck_since: float | None = None
    while True:
        pod = api.get(PODS, name)
        phase = pod.get("status", {}).get("phase")
        if phase == "Succeeded":
            return
        if phase == "Failed":
            cause = pod_cause(pod, _CONTAINER)
            raise UserError(
                f"{image}: 'compose-rl --help' fails in it: {cause.reason if cause else 'no reason given'}"
            )
        obstacle = pod_stage(pod)
        now = time.monotonic()
        stuck_since = (stuck_since or now) if obstacle.remedy else None
        if stuck_since is not None and now - stuck_since >= obstacle.grace_seconds:
            raise UserError(f"{image}: {obstacle.text}; {obstacle.remedy}")
        if now > end:
            raise UserError(f"{image}: still {obstacle.stage} after {seconds:.0f} s: {obstacle.text}")
        time.sleep(_PAUSE_SECONDS)
