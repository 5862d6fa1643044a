"""A real S3 server (versitygw) for tests: built once from its Go module, started on a free port.

By hand: ``python tests/s3/server.py`` builds it and prints where it lies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

VERSION = "v1.8.0"
MODULE = "github.com/versity/versitygw/cmd/versitygw"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testkey", "AWS_SECRET_ACCESS_KEY": "testsecret"}
REGION = "us-east-1"


class NoGoError(Exception):
    """The server can't be built here."""


def build() -> Path:
    """The server's program; built on the first call of this machine (a few minutes)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "compose-rl" / "tools"
    folder = cache / f"versitygw-{VERSION}"
    program = folder / "versitygw"
    if program.exists():
        return program
    go = shutil.which("go")
    if go is None:
        raise NoGoError("Go is not installed, so the S3 server of these tests can't be built")
    folder.mkdir(parents=True, exist_ok=True)
    with (cache / f"versitygw-{VERSION}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            environment = {**os.environ, "GOBIN": str(folder), "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
            command = [go, "install", "-trimpath", f"{MODULE}@{VERSION}"]
            subprocess.run(command, env=environment, check=True)
    return program


@contextlib.contextmanager
def running(program: Path, folder: Path, bucket: str, *, options: tuple[str, ...] = ()) -> Iterator[str]:
    """A server whose data lies in ``folder``, with one bucket; its URL.

    Args:
        options: more of its own.
    """
    (folder / "data" / bucket).mkdir(parents=True)
    (folder / "meta").mkdir()
    port = _free_port()
    command = [str(program), "--region", REGION, "--port", f"127.0.0.1:{port}", "--quiet", *options, "posix"]
    command += ["--sidecar", str(folder / "meta"), str(folder / "data")]
    environment = {
        "PATH": os.environ["PATH"],
        "ROOT_ACCESS_KEY": CREDENTIALS["AWS_ACCESS_KEY_ID"],
        "ROOT_SECRET_KEY": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _wait(process, port, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the S3 server does not answer: {log.read_text()}")


if __name__ == "__main__":
    print(build())
