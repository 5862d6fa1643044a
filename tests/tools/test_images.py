"""``tools/images.py``, with a program in the engine's place that writes down how it was called."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGINE = """#!{python}
import sys
with open({calls!r}, "a") as file:
    file.write("\\t".join(sys.argv[1:]) + "\\n")
if "{{{{json .RepoDigests}}}}" in sys.argv:
    print('["other/control@sha256:00", "rl/control@sha256:11"]')
elif "inspect" in sys.argv:
    print(123456789)
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for PATH that has git, and what the test puts there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "git").symlink_to(shutil.which("git") or "git")
    return folder


@pytest.fixture
def calls(programs: Path, tmp_path: Path) -> Path:
    """Where the engine writes its arguments, a line for each call."""
    file = tmp_path / "calls"
    docker = programs / "docker"
    docker.write_text(ENGINE.format(python=sys.executable, calls=str(file)))
    docker.chmod(0o755)
    return file


def images(programs: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools/images.py"), *words]
    environment = {"PATH": str(programs), "HOME": str(programs), **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_an_image_is_named_as_pipelines_name_it_and_built_on_the_base_given(
    programs: Path, calls: Path
) -> None:
    done = images(
        programs, "build", "control", "--registry=r.example.com/rl", "--tag=t", "--base=control=b:1"
    )
    assert done.returncode == 0, done.stderr
    assert "r.example.com/rl/control:t: 123 MB in " in done.stdout
    build = calls.read_text().splitlines()[0].split("\t")
    assert build[build.index("--tag") + 1] == "r.example.com/rl/control:t"
    arguments = [build[i + 1] for i, word in enumerate(build) if word == "--build-arg"]
    assert {"ENVIRONMENT=control", "BASE=b:1", "IMAGE=r.example.com/rl/control:t"} <= set(arguments)


def test_settings_of_the_package_index_go_in_as_secrets_and_nowhere_else(
    programs: Path, calls: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "pip.conf"
    settings.write_text("[global]\nindex-url = https://name:word@index.example.com/simple\n")
    done = images(programs, "build", "train", PIP_CONFIG_FILE=str(settings))
    assert done.returncode == 0, done.stderr
    build = calls.read_text().splitlines()[0].split("\t")
    assert f"id=pip,src={settings}" in build
    assert "index.example.com" not in calls.read_text() + done.stdout


def test_a_push_says_the_digest_of_its_own_repository(programs: Path, calls: Path) -> None:
    done = images(programs, "push", "control", "--registry=docker.io/rl", "--tag=t")
    assert done.returncode == 0, done.stderr
    assert "--image control=docker.io/rl/control@sha256:11" in done.stdout


def test_an_engine_that_is_not_there_is_one_line(programs: Path) -> None:
    done = images(programs, "build", "control", "--engine=buildah")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "images: there is no buildah here; install it or choose another --engine"
    ]


@pytest.mark.parametrize("base", ["control", "contrl=b:1", "control="])
def test_a_base_that_names_no_image_is_refused(programs: Path, base: str) -> None:
    done = images(programs, "build", "control", f"--base={base}")
    assert done.returncode == 2
    assert f"--base {base}: write NAME=IMAGE" in done.stderr
