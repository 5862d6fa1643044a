"""docs/cluster.md: what needs no cluster is run; flags, files, targets and parameters that it names exist."""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/cluster.md"
TEXT = PAGE.read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
ELSEWHERE = "# not run by the tests"
KUBECTL = Path(os.environ.get("CLUSTER_ROOT", "/var/tmp/compose-rl-cluster")) / "bin/kubectl"
OTHERS = {"make environments", ".venvs/train/bin/python -m compose_rl.demo --out demo-data"}
"""Run by CI and by the README's tests."""
PROGRAM = re.compile(r"\.venvs/(?P<environment>\w+)/bin/(?P<rest>(python( -m)? )?\S+)(?P<arguments>.*)")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def commands(*, elsewhere: bool) -> list[str]:
    """The page's commands that need an outside service, or those that do not; lines that go on are joined."""
    found: list[str] = []
    for block in blocks("bash"):
        if block.startswith(ELSEWHERE) == elsewhere:
            lines = block.replace("\\\n", " ").splitlines()
            found += [line for line in lines if line and not line.startswith("#")]
    return found


def located(command: str) -> str:
    """The command with this machine's environments, or a skipped test where one is missing."""
    for name in re.findall(r"\.venvs/(\w+)/", command):
        prefix = Path(os.environ.get(f"COMPOSE_RL_ENV_{name.upper()}", ROOT / ".venvs" / name))
        if not prefix.is_dir():
            pytest.skip(f"no environment '{name}' here")
        command = command.replace(f".venvs/{name}", str(prefix))
    if command.startswith("kubectl "):
        kubectl = shutil.which("kubectl") or (str(KUBECTL) if KUBECTL.exists() else None)
        if kubectl is None:
            pytest.skip("no kubectl here")
        command = command.replace("kubectl", kubectl, 1)
    return re.sub(r"(?<=\s)(pipelines|manifests)/", rf"{ROOT}/\1/", command)


@functools.cache
def shown_help(program: str) -> str:
    command = [*shlex.split(located(program)), "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", [line for line in commands(elsewhere=False) if line not in OTHERS])
def test_a_command_that_needs_no_cluster_works(command: str, tmp_path: Path) -> None:
    done = subprocess.run(
        shlex.split(located(command)), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command",
    [line for line in commands(elsewhere=True) if line.startswith(".venvs/")],
    ids=lambda line: line[:60],
)
def test_a_command_that_needs_a_cluster_has_the_flags_it_names(command: str) -> None:
    found = PROGRAM.fullmatch(command)
    assert found
    program = f".venvs/{found['environment']}/bin/{found['rest']}"
    if program.endswith("/compose-rl"):
        program = f"{program} {found['arguments'].split()[0]}"
    text = shown_help(program)
    for flag in re.findall(r"(?<=\s)(--?[a-z][a-z-]*)", found["arguments"]):
        assert re.search(rf"(^|[\s\[(|]){flag}\b", text), flag


@pytest.mark.parametrize("flag", sorted(set(re.findall(r"`(--[a-z-]+)[ `]", TEXT))))
def test_a_flag_in_the_text_is_one_of_a_pipeline_or_of_the_operator(flag: str) -> None:
    text = shown_help(".venvs/control/bin/python pipelines/dpo.py")
    assert re.search(rf"(^|[\s\[(|]){flag}\b", text) or flag == "--pytorch-init-container-image"


@pytest.mark.parametrize("pipeline", ["dpo", "ppo"])
def test_the_run_s_parameters_are_taken(pipeline: str, tmp_path: Path) -> None:
    """Parameters, resources and configuration are looked at before the server, which is not there."""
    first, with_gpus, with_servers = (yaml.safe_load(block) for block in blocks("yaml"))
    resources = yaml.safe_load(first["resources"]) | yaml.safe_load(with_gpus["resources"])
    if pipeline == "ppo":
        first = {name: first[name] for name in ("base_model", "prompts", "max_length")}
        resources = yaml.safe_load(with_servers["resources"])
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**first, "resources": yaml.safe_dump(resources)}))
    words = "--submit --host http://127.0.0.1:9 --storage s3://bucket/x --parameters run.yaml"
    command = located(f".venvs/control/bin/python pipelines/{pipeline}.py {words}")
    done = subprocess.run(shlex.split(command), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "error: no answer from KFP at http://127.0.0.1:9" in done.stderr


def test_make_targets_and_their_variables_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target, rest in re.findall(r"^make ([a-z-]+)(.*)$", TEXT, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
        for variable in re.findall(r"(\w+)=", rest):
            assert variable in makefile, variable


def test_commands_that_other_tests_run_are_theirs() -> None:
    for command in OTHERS - {"make environments"}:
        assert command in README
        assert command in TEXT


def test_links_lead_to_files() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (PAGE.parent / link).exists(), link


def test_components_named_are_there() -> None:
    (line,) = [line for line in TEXT.splitlines() if "Components to add:" in line]
    named = re.findall(r"`(\w+)` ?(?=\(|,|$)|`(\w+)`,", line.partition("Components to add:")[2])
    names = {first or second for first, second in named}
    assert names == {folder.name for folder in (ROOT / "manifests/components").iterdir()}
