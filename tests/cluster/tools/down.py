"""Stop what ``up`` started, by process id, and remove its state; the programs stay."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

from places import BRIDGE, RUN
from processes import stop


def down() -> None:
    """Stop the cluster, its containers first."""
    for name in ("operator", "kubelet", "kube-proxy", "coredns", "scheduler", "kcm", "s3"):
        stop(name, signal.SIGKILL if name == "operator" else signal.SIGTERM)
    if (RUN / "containerd.sock").exists():
        for kind, remove in (("task", ["rm", "-f"]), ("container", ["rm"])):
            for name in _ctr(kind, "ls", "-q").split():
                _ctr(kind, *remove, name)
    stop("containerd")
    stop("apiserver", signal.SIGKILL)
    stop("etcd", signal.SIGKILL)
    _unmount()
    for namespace in _ip("-br", "netns").split():
        if namespace.startswith("cni-"):
            _ip("netns", "del", namespace)
    for link in ("cni0", BRIDGE):
        _ip("link", "del", link)
    shutil.rmtree(RUN, ignore_errors=True)


def _unmount() -> None:
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for point in sorted((point for point in points if point.startswith(f"{RUN}/")), reverse=True):
        subprocess.run(["umount", "-l", point], check=True)


def _ctr(*words: str) -> str:
    return _output("ctr", "-a", str(RUN / "containerd.sock"), "-n", "k8s.io", *words)


def _ip(*words: str) -> str:
    return _output("ip", *words)


def _output(*command: str) -> str:
    """What a command prints; one that finds nothing to remove is no failure."""
    return subprocess.run(command, capture_output=True, text=True).stdout
