"""Kubeflow Trainer's kinds of objects, from its Go module; no controller acts on them here."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import building
import up
from processes import until

MODULE = "github.com/kubeflow/trainer/v2@v2.3.0"
CRDS = "manifests/base/crds"
KINDS = ("trainjobs", "trainingruntimes")


def module() -> Path:
    """The module's folder, downloaded once."""
    building.SOURCES.mkdir(parents=True, exist_ok=True)
    command = ["go", "mod", "download", "-json", MODULE]
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    done = subprocess.run(
        command,
        cwd=building.SOURCES,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return Path(json.loads(done.stdout)["Dir"])


def _served() -> bool:
    try:
        return bool([up.kubectl("get", f"{kind}.trainer.kubeflow.org") for kind in KINDS])
    except subprocess.CalledProcessError:
        return False


@contextmanager
def installed() -> Iterator[None]:
    """The API server knows TrainJobs and TrainingRuntimes."""
    files = [module() / CRDS / f"trainer.kubeflow.org_{kind}.yaml" for kind in KINDS]
    names = [f"crd/{kind}.trainer.kubeflow.org" for kind in KINDS]
    try:
        for file in files:
            up.kubectl("apply", "--server-side", "-f", str(file))
        until(_served, "the API of Kubeflow Trainer")
        yield
    finally:
        up.kubectl("delete", "--ignore-not-found", "--wait=true", "--timeout=60s", *names)
