"""The cluster's programs: built from their Go modules (minutes when cold, nothing when they are there)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import archives
from places import BIN, IMAGES, ROOT, SOURCES

KUBERNETES = "v1.34.2"
LEVELS = {
    "api": ["kube-apiserver", "kube-controller-manager", "kubectl"],
    "node": ["kube-scheduler", "kubelet", "kube-proxy"],
}
"""The programs of k8s.io/kubernetes that each level adds."""
COREDNS_PLUGINS = ["bind", "cache", "errors", "forward", "health", "kubernetes", "log", "ready"]
COREDNS_MAIN = """package main

import (
\t"github.com/coredns/coredns/coremain"
{plugins}
)

func main() {{ coremain.Run() }}
"""
PACKAGES = {
    "api": {"ip": "iproute2", "openssl": "openssl"},
    "node": {
        "containerd": "containerd",
        "runc": "runc",
        "/usr/lib/cni/bridge": "containernetworking-plugins",
        "iptables": "iptables",
        "conntrack": "conntrack",
        "/bin/busybox": "busybox-static",
    },
}
"""The Debian package of each program that a level adds."""


class CannotError(Exception):
    """This machine can't run a test cluster. The message is one line."""


@dataclass(frozen=True)
class Module:
    """A program in one Go module."""

    program: str
    path: str
    version: str
    package: str
    go: str = "1.23"
    main: str = ""
    """The source of its main package, where the module has none that fits."""


ETCD = Module("etcd", "go.etcd.io/etcd/server/v3", "v3.5.21", "go.etcd.io/etcd/server/v3")
OPERATOR = Module(
    "training-operator",
    "github.com/kubeflow/training-operator",
    "v1.9.2",
    "github.com/kubeflow/training-operator/cmd/training-operator.v1",
)
COREDNS = Module(
    "coredns",
    "github.com/coredns/coredns",
    "v1.12.0",
    ".",
    main=COREDNS_MAIN.format(
        plugins="\n".join(f'\t_ "github.com/coredns/coredns/plugin/{name}"' for name in COREDNS_PLUGINS)
    ),
)


def check() -> None:
    """Raise CannotError where no test cluster can be built and run."""
    if os.geteuid() != 0:
        raise CannotError("a test cluster makes a network bridge and (level node) containers: run it as root")
    if shutil.which("go") is None:
        raise CannotError("Go is not on the PATH, so Kubernetes can't be built: install Go 1.24 or newer")


def build(level: str) -> None:
    """Build and install what ``level`` needs and isn't there."""
    check()
    BIN.mkdir(parents=True, exist_ok=True)
    _install(level)
    _kubernetes([*LEVELS["api"], *(LEVELS["node"] if level == "node" else [])])
    _module(ETCD)
    _module(OPERATOR)
    _crd()
    import server  # of tests/s3

    _timed("versitygw", server.build)
    if level == "node":
        _module(COREDNS)
        if not (IMAGES / "busybox.tar").exists():
            archives.make_base()


def _install(level: str) -> None:
    wanted = PACKAGES["api"] | (PACKAGES["node"] if level == "node" else {})
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [package for program, package in wanted.items() if shutil.which(program, path=path) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise CannotError(f"these programs are missing, and there is no apt-get: {', '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    subprocess.run(command, env=environment, check=True)


def _kubernetes(programs: list[str]) -> None:
    wanted = [name for name in programs if not _built(name, "k8s.io/kubernetes", KUBERNETES)]
    if not wanted:
        return
    folder = SOURCES / "kubernetes"
    folder.mkdir(parents=True, exist_ok=True)
    found = _go(SOURCES, "mod", "download", "-json", f"k8s.io/kubernetes@{KUBERNETES}", capture=True)
    (folder / "go.mod").write_text(_kubernetes_go_mod(Path(json.loads(found)["GoMod"]).read_text()))
    for name in wanted:
        _build(folder, name, f"k8s.io/kubernetes/cmd/{name}", f"-s -w {_version_flags()}")


def _kubernetes_go_mod(theirs: str) -> str:
    """Kubernetes takes its own libraries from its repository; outside of it their releases do."""
    libraries = sorted(set(re.findall(r"^\s+(k8s\.io/\S+) v0\.0\.0$", theirs, re.MULTILINE)))
    go = re.search(r"^go (\S+)", theirs, re.MULTILINE)
    assert go is not None
    release = f"v0.{KUBERNETES.split('.', 1)[1]}"
    replaced = "\n".join(f"\t{library} => {library} {release}" for library in libraries)
    return (
        f"module example/kubernetes\n\ngo {go[1]}\n\nrequire k8s.io/kubernetes {KUBERNETES}\n\n"
        f"replace (\n{replaced}\n)\n"
    )


def _version_flags() -> str:
    """Without them the programs call themselves v0.0.0, and refuse one another."""
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    values = {
        "gitVersion": KUBERNETES,
        "gitMajor": major,
        "gitMinor": minor,
        "gitCommit": "0" * 40,
        "gitTreeState": "clean",
        "buildDate": "2025-01-01T00:00:00Z",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(f"-X {package}.{key}={value}" for package in packages for key, value in values.items())


def _module(module: Module) -> None:
    if _built(module.program, module.path, module.version):
        return
    folder = SOURCES / module.program
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "go.mod").write_text(
        f"module example/{module.program}\n\ngo {module.go}\n\nrequire {module.path} {module.version}\n"
    )
    if module.main:
        (folder / "main.go").write_text(module.main)
    _build(folder, module.program, module.package, "-s -w")


def _crd() -> None:
    """The PyTorchJob's definition lies in the operator's module."""
    target = ROOT / f"pytorchjobs-{OPERATOR.version}.yaml"
    if not target.exists():
        found = _go(SOURCES, "mod", "download", "-json", f"{OPERATOR.path}@{OPERATOR.version}", capture=True)
        source = Path(json.loads(found)["Dir"]) / "manifests/base/crds/kubeflow.org_pytorchjobs.yaml"
        target.write_bytes(source.read_bytes())


def crd() -> Path:
    """The PyTorchJob's CustomResourceDefinition."""
    return ROOT / f"pytorchjobs-{OPERATOR.version}.yaml"


def _built(program: str, module: str, version: str) -> bool:
    """Whether the program is there, in this version: Go writes it into what it builds."""
    path = BIN / program
    if not path.exists():
        return False
    found = subprocess.run(["go", "version", "-m", str(path)], capture_output=True, text=True, check=True)
    return (
        re.search(rf"^\t(?:mod|dep)\t{re.escape(module)}\t{re.escape(version)}\b", found.stdout, re.M)
        is not None
    )


def _build(folder: Path, program: str, package: str, flags: str) -> None:
    command = ["build", "-trimpath", "-ldflags", flags, "-o", str(BIN / program), package]
    _timed(program, lambda: _go(folder, *command))


def _go(folder: Path, *words: str, capture: bool = False) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    if words[0] == "build":
        environment["GOFLAGS"] = "-mod=mod"
    output = subprocess.PIPE if capture else None
    return subprocess.run(
        ["go", *words], cwd=folder, env=environment, check=True, stdout=output, text=True
    ).stdout


def _timed(name: str, step: object) -> None:
    started = time.monotonic()
    step()  # type: ignore[operator]
    if time.monotonic() - started > 1:
        print(f"built {name} in {time.monotonic() - started:.0f} s", flush=True)
