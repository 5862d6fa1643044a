"""Create the local environments from the committed locks: ``tools/environments.py [--tests] control train``.

Runs on a bare Python 3.11: it installs uv beside the environments if there is none. An environment that
matches its lock is left alone, and so is one that ``COMPOSE_RL_ENV_<NAME>`` names: that one is its owner's.
"""

from __future__ import annotations

import argparse
import compileall
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".venvs"
TEST_LOCK = ROOT / "tests/requirements.txt"
PROJECT = ROOT / "pyproject.toml"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="+", choices=["control", "train", "rollout"], metavar="control|train|rollout"
    )
    parser.add_argument("--tests", action="store_true", help="with what the tests need")
    options = parser.parse_args()
    for name in options.names:
        make(name, tests=options.tests)
    for package in ("compose_rl", "components", "pipelines"):
        # Where PYTHONDONTWRITEBYTECODE is set, nothing would compile it later.
        compileall.compile_dir(ROOT / package, quiet=2)


def make(name: str, tests: bool) -> None:
    """Bring environment ``name`` to its lock, if it isn't."""
    variable = f"COMPOSE_RL_ENV_{name.upper()}"
    if variable in os.environ:
        say(f"{name}: {variable} is set, left as it is")
        return
    folder = ENVIRONMENTS / name
    lock = lock_of(name)
    if stale(folder, "lock", lock):
        for stamp in folder.glob(".*.sha256"):
            stamp.unlink()
        install(folder, lock)
        mark(folder, "lock", lock)
    if stale(folder, "project", PROJECT):
        # Entry points are written when the project is installed; its code is used in place.
        uv(folder, "pip", "install", "--quiet", "--no-deps", "--editable", str(ROOT))
        mark(folder, "project", PROJECT)
    if tests and stale(folder, "tests", TEST_LOCK):
        uv(folder, "pip", "install", "--require-hashes", "--compile-bytecode", "-r", str(TEST_LOCK))
        mark(folder, "tests", TEST_LOCK)


def lock_of(name: str) -> Path:
    """The image's lock; where there is no NVIDIA GPU, the environment's lock for CPU if it has one."""
    lock = ROOT / f"images/{name}/requirements.txt"
    on_cpu = lock.with_stem("requirements-cpu")
    return on_cpu if on_cpu.exists() and not has_gpu() else lock


def has_gpu() -> bool:
    """Whether an NVIDIA driver is at work here."""
    return Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi") is not None


def install(folder: Path, lock: Path) -> None:
    """Make the environment hold what the lock lists, and nothing else."""
    started = time.monotonic()
    say(f"{folder.name}: installing {lock.relative_to(ROOT)} into {folder.relative_to(ROOT)}")
    if not (folder / "bin/python").exists():
        python = sys.executable if sys.version_info[:2] == (3, 11) else "3.11"
        run([find_uv(), "venv", "--quiet", "--python", python, str(folder)])
    uv(folder, "pip", "sync", "--require-hashes", "--compile-bytecode", str(lock))
    say(f"{folder.name}: installed in {time.monotonic() - started:.0f} s")


def stale(folder: Path, what: str, file: Path) -> bool:
    """Whether ``file`` changed since the environment was brought to it."""
    stamp = folder / f".{what}.sha256"
    return not stamp.exists() or stamp.read_text() != digest(file)


def mark(folder: Path, what: str, file: Path) -> None:
    (folder / f".{what}.sha256").write_text(digest(file))


def uv(folder: Path, *arguments: str) -> None:
    run([find_uv(), *arguments, "--python", str(folder / "bin/python")])


def find_uv() -> str:
    """The uv on the path, or our own, installed with pip when it is first needed."""
    own = ENVIRONMENTS / "uv"
    found = shutil.which("uv") or shutil.which("uv", path=str(own / "bin"))
    if found:
        return found
    say("installing uv")
    run([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(own), "uv"])
    return str(own / "bin/uv")


def run(command: list[str]) -> None:
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code:
        sys.exit(f"environments: '{' '.join(command)}' failed with exit code {code}")


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def say(text: str) -> None:
    print(f"environments: {text}", flush=True)


if __name__ == "__main__":
    main()
