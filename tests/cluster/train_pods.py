"""Pods that run the training environment of this checkout, without a registry.

Their image is a root of a few links; the machine's ``/usr``, the interpreter, the environment and the
checkout are mounted over it, read-only, at the places that they have here.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import archives
from places import IMAGES

CHECKOUT = Path(__file__).parents[2]
IMAGE = "docker.io/local/hostpython-{}:1"
MERGED = ("bin", "lib", "lib64", "sbin")
"""Folders of the root that are links into /usr."""


def environment_folder(environment: str = "train") -> Path:
    """A local environment."""
    given = os.environ.get(f"COMPOSE_RL_ENV_{environment.upper()}", CHECKOUT / ".venvs" / environment)
    return Path(given).absolute()


def load_image(environment: str) -> str:
    """Bring the image of an environment into the cluster; its name."""
    image = IMAGE.format(environment)
    path = IMAGES / f"hostpython-{environment}.tar"
    _archive(path, image, environment)
    archives.load_one(path)
    return image


def resources() -> dict[str, Any]:
    """Bring the training image into the cluster; what ``Resources`` needs to run in it."""
    image = load_image("train")
    volumes, mounts = [], []
    for number, folder in enumerate(mounted("train", "rollout")):
        name = f"host-{number}"
        volumes.append({"name": name, "hostPath": {"path": str(folder), "type": "Directory"}})
        mounts.append({"name": name, "mountPath": str(folder), "readOnly": True})
    return {
        "image": image,
        "image_pull_policy": "IfNotPresent",
        "volumes": volumes,
        "volume_mounts": mounts,
        "env": {"PYTHONPATH": str(CHECKOUT / "tests/toy"), "OMP_NUM_THREADS": "1"},
    }


def mounted(*environments: str) -> list[Path]:
    """The folders that those of the environments need that are there, none of them inside another."""
    wanted = {Path("/usr"), CHECKOUT}
    for folder in filter(Path.exists, map(environment_folder, environments)):
        wanted |= _of_environment(folder)
    return sorted(path for path in wanted if not any(other in path.parents for other in wanted))


def _of_environment(folder: Path) -> set[Path]:
    code = "import sys; print(sys.base_prefix)"
    base = subprocess.run([folder / "bin/python", "-c", code], capture_output=True, text=True, check=True)
    prefix = Path(base.stdout.strip())
    return {prefix, prefix.resolve(), folder, folder.resolve()}


def _archive(path: Path, image: str, environment: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in MERGED:
            if Path("/usr", name).exists():
                (root / name).symlink_to(f"usr/{name}")
        for name in ("etc", "tmp"):
            (root / name).mkdir()
        (root / "tmp").chmod(0o1777)
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\ntrain:x:65532:65532::/tmp:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\ntrain:x:65532:\n")
        (root / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
        search = f"{environment_folder(environment)}/bin:/usr/bin:/bin"
        variables = {"PATH": search, "COMPOSE_RL_ENV": environment}
        archives.archive(path, image, root, environment=variables)
