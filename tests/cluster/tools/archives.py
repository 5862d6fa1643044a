"""Container images without a container engine or a registry: docker-archives, imported into containerd."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from places import BUSYBOX, IMAGES, RUN

PAUSE = "docker.io/local/pause:1"
"""What holds a pod's namespaces. Its process only has to stay."""
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def archive(
    path: Path,
    name: str,
    root: Path,
    *,
    entrypoint: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> None:
    """Write an image of one layer, the folder ``root``, whose files belong to root."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in sorted(root.iterdir()):
            tar.add(entry, entry.name, filter=_of_root)
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    variables = [f"{key}={value}" for key, value in (environment or {}).items()]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": list(entrypoint) or None, "WorkingDir": "/", "Env": [_PATH, *variables]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    text = json.dumps(config).encode()
    config_name = f"{hashlib.sha256(text).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": [f"{digest}.tar"]}]
    files = {
        f"{digest}.tar": layer.getvalue(),
        config_name: text,
        "manifest.json": json.dumps(manifest).encode(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for file, content in files.items():
            info = tarfile.TarInfo(file)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def make_base() -> None:
    """The archives of busybox and of the pause container, which is busybox as well."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("bin", "etc", "tmp"):
            (root / name).mkdir()
        (root / "tmp").chmod(0o1777)
        program = Path("/bin/busybox")
        (root / "bin/busybox").write_bytes(program.read_bytes())
        (root / "bin/busybox").chmod(0o755)
        listed = subprocess.run([program, "--list"], capture_output=True, text=True, check=True)
        for name in set(listed.stdout.split()) - {"busybox"}:
            (root / "bin" / name).symlink_to("busybox")
        (root / "etc/passwd").write_text(
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"
        )
        archive(IMAGES / "pause.tar", PAUSE, root, entrypoint=["/bin/sleep", "2147483647"])
        archive(IMAGES / "busybox.tar", BUSYBOX, root)


def load() -> None:
    """Bring every archive under images/ into the running containerd."""
    for path in sorted(IMAGES.glob("*.tar")):
        load_one(path)


def load_one(path: Path) -> None:
    """Bring an archive into the running containerd."""
    subprocess.run(
        ["ctr", "-a", str(RUN / "containerd.sock"), "-n", "k8s.io", "images", "import", str(path)],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry
