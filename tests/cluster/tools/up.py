"""Start a cluster of level ``api`` or ``node`` (some ten seconds)."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import archives
import building
import certificates
import processes
from places import ADDRESS, ADMIN, BIN, BRIDGE, BUCKET, FILES, NODE, ROOT, RUN
from processes import start, until

NODE_FILES = {
    "containerd.toml": "containerd.toml",
    "kubelet.yaml": "kubelet.yaml",
    "Corefile": "Corefile",
    "cni.conflist": "cni/10-bridge.conflist",
}
"""Where the configuration of each of the node's processes goes, under run/."""
SERVING_CERTIFICATES = Path("/tmp/k8s-webhook-server/serving-certs")
"""Fixed in the operator."""


def up(level: str) -> None:
    """Start everything, after what an earlier cluster left is gone; return when it works."""
    building.build(level)
    started = time.monotonic()
    RUN.mkdir(parents=True, exist_ok=True)
    _bridge()
    certificates.make()
    shutil.rmtree(RUN / "etcd", ignore_errors=True)
    start("etcd")
    start("apiserver")
    until(_answers, "the API server")
    start("kcm")
    until(lambda: _found("-n", "default", "get", "serviceaccount", "default"), "the default service account")
    for folder in (RUN / "s3" / BUCKET, RUN / "meta-of-s3"):
        folder.mkdir(parents=True, exist_ok=True)
    start("s3")
    if level == "node":
        _node()
    _operator()
    print(f"cluster of level {level} up in {time.monotonic() - started:.0f} s", flush=True)


@contextlib.contextmanager
def api_server_away() -> Iterator[None]:
    """Kill the API server, and start it again afterwards. Told to stop, it would wait for its watchers."""
    processes.stop("apiserver", signal.SIGKILL)
    try:
        yield
    finally:
        start("apiserver")
        until(_answers, "the API server")


def level() -> str | None:
    """The level of the cluster that runs, None where none does."""
    if not _answers():
        return None
    return "node" if _found("get", "node", NODE) else "api"


def kubectl(*words: str, text: str | None = None) -> str:
    """What kubectl prints, run as the administrator."""
    command = [str(BIN / "kubectl"), f"--kubeconfig={ADMIN}", *words]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def _bridge() -> None:
    if subprocess.run(["ip", "link", "show", BRIDGE], capture_output=True).returncode == 0:
        return
    for words in (
        ["link", "add", BRIDGE, "type", "bridge"],
        ["addr", "add", f"{ADDRESS}/32", "dev", BRIDGE],
        ["link", "set", BRIDGE, "up"],
    ):
        subprocess.run(["ip", *words], check=True)


def _node() -> None:
    with contextlib.suppress(OSError):  # refused where the machine's owner has set it already
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    for source, target in NODE_FILES.items():
        path = RUN / target
        path.parent.mkdir(exist_ok=True)
        path.write_text(_filled(source))
    start("containerd")
    until(lambda: (RUN / "containerd.sock").exists(), "containerd")
    archives.load()
    for name in ("scheduler", "kubelet", "kube-proxy", "coredns"):
        start(name)
    until(_ready, "the node")


def _operator() -> None:
    """The operator runs here, not in a pod; its webhook is real: a Service without a selector leads back."""
    kubectl("create", "namespace", "kubeflow")
    kubectl("apply", "--server-side", "-f", str(building.crd()))
    kubectl("apply", "-f", "-", text=_filled("operator-webhook.yaml"))
    shutil.rmtree(SERVING_CERTIFICATES, ignore_errors=True)
    SERVING_CERTIFICATES.mkdir(parents=True)
    start("operator")
    # It makes its certificate itself, into a secret; in a pod that would be mounted where it reads it.
    until(lambda: "tls.crt" in _webhook_secret(), "the operator's certificate")
    for name in ("tls.key", "tls.crt"):
        (SERVING_CERTIFICATES / name).write_bytes(base64.b64decode(_webhook_secret()[name]))
    until(_operator_ready, "the training operator")


def _webhook_secret() -> dict[str, str]:
    words = ["-n", "kubeflow", "get", "secret", "training-operator-webhook-cert", "-o", "json"]
    return json.loads(kubectl(*words)).get("data", {})


def _filled(name: str) -> str:
    return (FILES / name).read_text().replace("CLUSTER_IP", ADDRESS).replace("ROOT", str(ROOT))


def _found(*words: str) -> bool:
    command = [str(BIN / "kubectl"), f"--kubeconfig={ADMIN}", "--request-timeout=5s", *words]
    return subprocess.run(command, capture_output=True).returncode == 0


def _answers() -> bool:
    return ADMIN.exists() and (BIN / "kubectl").exists() and _found("get", "--raw", "/readyz")


def _ready() -> bool:
    command = [str(BIN / "kubectl"), f"--kubeconfig={ADMIN}", "get", "node", NODE, "--no-headers"]
    return " Ready " in subprocess.run(command, capture_output=True, text=True).stdout


def _operator_ready() -> bool:
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(processes.OPERATOR_HEALTH, timeout=5).status == 200
    return False
