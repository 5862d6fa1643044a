"""The cluster's processes: their command lines, and starting and stopping one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from places import ADDRESS, ADMIN, BIN, BUSYBOX, KUBECONFIG, NODE, PKI, RUN

POD_RANGE = "10.88.0.0/16"
SERVICE_RANGE = "10.96.0.0/16"
INIT_CONTAINER = Path(__file__).parents[3] / "manifests/operator/init-container.yaml"
OPERATOR_HEALTH = "http://127.0.0.1:18091/readyz"


def etcd() -> list[str]:
    return [
        "etcd",
        f"--data-dir={RUN / 'etcd'}",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync",  # its data need not outlive the machine
    ]


def apiserver() -> list[str]:
    return [
        "kube-apiserver",
        "--etcd-servers=http://127.0.0.1:2379",
        "--secure-port=6443",
        f"--bind-address={ADDRESS}",
        f"--advertise-address={ADDRESS}",
        f"--client-ca-file={PKI / 'ca.crt'}",
        f"--tls-cert-file={PKI / 'apiserver.crt'}",
        f"--tls-private-key-file={PKI / 'apiserver.key'}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={PKI / 'sa.pub'}",
        f"--service-account-signing-key-file={PKI / 'sa.key'}",
        "--authorization-mode=Node,RBAC",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--enable-aggregator-routing=true",  # webhooks are reached at their endpoints, not through kube-proxy
        f"--kubelet-client-certificate={PKI / 'kubelet-client.crt'}",
        f"--kubelet-client-key={PKI / 'kubelet-client.key'}",
        "--kubelet-preferred-address-types=InternalIP",
    ]


def kcm() -> list[str]:
    return [
        "kube-controller-manager",
        *_clients("kcm"),
        f"--service-account-private-key-file={PKI / 'sa.key'}",
        f"--root-ca-file={PKI / 'ca.crt'}",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        f"--cluster-cidr={POD_RANGE}",
        "--allocate-node-cidrs=true",
        "--bind-address=127.0.0.1",
    ]


def scheduler() -> list[str]:
    return ["kube-scheduler", *_clients("scheduler"), "--leader-elect=false", "--bind-address=127.0.0.1"]


def containerd() -> list[str]:
    return ["containerd", "-c", str(RUN / "containerd.toml")]


def kubelet() -> list[str]:
    return [
        "kubelet",
        f"--config={RUN / 'kubelet.yaml'}",
        f"--kubeconfig={KUBECONFIG / 'kubelet.conf'}",
        f"--root-dir={RUN / 'kubelet'}",
        f"--hostname-override={NODE}",
        f"--node-ip={ADDRESS}",
    ]


def kube_proxy() -> list[str]:
    return [
        "kube-proxy",
        f"--kubeconfig={ADMIN}",
        f"--hostname-override={NODE}",
        f"--cluster-cidr={POD_RANGE}",
        "--proxy-mode=iptables",
        "--conntrack-max-per-core=0",
    ]


def coredns() -> list[str]:
    return ["coredns", "-conf", str(RUN / "Corefile")]


def operator() -> list[str]:
    return [
        "env",
        "MY_POD_NAMESPACE=kubeflow",
        "training-operator",
        f"--kubeconfig={ADMIN}",
        "--enable-scheme=pytorchjob",
        "--metrics-bind-address=127.0.0.1:18090",
        "--health-probe-bind-address=127.0.0.1:18091",
        "--webhook-server-port=9443",
        f"--pytorch-init-container-image={BUSYBOX}",
        f"--pytorch-init-container-template-file={INIT_CONTAINER}",
    ]


def s3() -> list[str]:
    import server  # of tests/s3

    return [
        "env",
        f"ROOT_ACCESS_KEY={server.CREDENTIALS['AWS_ACCESS_KEY_ID']}",
        f"ROOT_SECRET_KEY={server.CREDENTIALS['AWS_SECRET_ACCESS_KEY']}",
        str(server.build()),
        f"--region={server.REGION}",
        f"--port={ADDRESS}:9000",
        "--quiet",
        "posix",
        "--sidecar",
        str(RUN / "meta-of-s3"),
        str(RUN / "s3"),
    ]


def _clients(user: str) -> list[str]:
    path = KUBECONFIG / f"{user}.conf"
    options = ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
    return [f"--{option}={path}" for option in options]


COMMANDS: dict[str, Callable[[], list[str]]] = {
    "etcd": etcd,
    "apiserver": apiserver,
    "kcm": kcm,
    "s3": s3,
    "containerd": containerd,
    "scheduler": scheduler,
    "kubelet": kubelet,
    "kube-proxy": kube_proxy,
    "coredns": coredns,
    "operator": operator,
}
"""Every process by name, in the order in which they start."""


def start(name: str) -> None:
    """Start a process that outlives this one; output to ``run/NAME.log``, id in ``run/NAME.pid``."""
    environment = {**os.environ, "PATH": f"{BIN}:/usr/sbin:/sbin:{os.environ['PATH']}"}
    with (RUN / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            COMMANDS[name](),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (RUN / f"{name}.pid").write_text(f"{process.pid}\n")


def stop(name: str, number: signal.Signals = signal.SIGTERM) -> None:
    """Signal the process, where it runs, and wait until it is gone."""
    path = RUN / f"{name}.pid"
    if not path.exists():
        return
    pid = int(path.read_text())
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        until(lambda: not _alive(pid), f"{name} to end")
    path.unlink()


def runs(name: str) -> bool:
    """Whether the process is there."""
    path = RUN / f"{name}.pid"
    return path.exists() and _alive(int(path.read_text()))


def _alive(pid: int) -> bool:
    """Neither gone nor a child of ours that nobody has waited for."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return Path(f"/proc/{pid}").exists()


def until(holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: it did not come.
    """
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}; the logs are in {RUN}")
        time.sleep(0.1)
