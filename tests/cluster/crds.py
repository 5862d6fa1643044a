"""Kinds of objects that others define, from their Go modules; no controller acts on them here."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import building
import up
from processes import until

__all__ = ["KUEUE", "TRAINER", "Definitions"]


@dataclass(frozen=True, kw_only=True)
class Definitions:
    """Definitions of a group in a Go module."""

    module: str
    folder: str
    group: str
    kinds: tuple[str, ...]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The API server knows them."""
        folder = module(self.module) / self.folder
        names = [f"crd/{kind}.{self.group}" for kind in self.kinds]
        try:
            for kind in self.kinds:
                up.kubectl("apply", "--server-side", "-f", str(folder / f"{self.group}_{kind}.yaml"))
            until(self._served, f"the API of {self.group}")
            yield
        finally:
            up.kubectl("delete", "--ignore-not-found", "--wait=true", "--timeout=60s", *names)

    def _served(self) -> bool:
        try:
            return bool([up.kubectl("get", f"{kind}.{self.group}") for kind in self.kinds])
        except subprocess.CalledProcessError:
            return False


TRAINER = Definitions(
    module="github.com/kubeflow/trainer/v2@v2.3.0",
    folder="manifests/base/crds",
    group="trainer.kubeflow.org",
    kinds=("trainjobs", "trainingruntimes"),
)
KUEUE = Definitions(
    module="sigs.k8s.io/kueue@v0.17.0",
    folder="config/components/crd/bases",
    group="kueue.x-k8s.io",
    kinds=("clusterqueues", "localqueues", "resourceflavors"),
)


def module(name: str) -> Path:
    """A Go module's folder, downloaded once."""
    building.SOURCES.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["go", "mod", "download", "-json", name],
        cwd=building.SOURCES,
        env={**os.environ, "GOTOOLCHAIN": "local"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return Path(json.loads(done.stdout)["Dir"])
