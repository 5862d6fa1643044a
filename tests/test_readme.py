"""The README's commands work, and what it names exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from compose_rl.config.steps import step_document
from compose_rl.stages.spec import NAMES, load

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BY_CI = {"make demo", "make test"}
NOT_HERE = "# not run by the tests"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    """The README's commands, joined where they go on and without comments."""
    found: list[str] = []
    for block in blocks("bash"):
        if not block.startswith(NOT_HERE):
            lines = block.replace("\\\n", " ").splitlines()
            found += [line.split("  #")[0].strip() for line in lines if line and not line.startswith("#")]
    return found


def environment(command: str) -> str:
    """The environment whose programs the command names."""
    return command.split("/")[1]


@pytest.mark.parametrize("command", [c for c in commands() if c not in BY_CI])
def test_a_command_works(command: str, tmp_path: Path) -> None:
    name = environment(command)
    prefix = Path(os.environ.get(f"COMPOSE_RL_ENV_{name.upper()}", ROOT / ".venvs" / name))
    if not prefix.is_dir():
        pytest.skip(f"no environment '{name}' here")
    given = command.replace(f".venvs/{name}", str(prefix))
    given = given.replace("pipelines/", f"{ROOT}/pipelines/").replace(
        "demo-data", str(tmp_path / "demo-data")
    )
    if "--set uri=" in command:
        # What the command before it in the README makes.
        (tmp_path / "demo-data").mkdir()
        (tmp_path / "demo-data" / "preferences.jsonl").write_text(
            '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
        )
    done = subprocess.run(shlex.split(given), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_two_commands_are_targets_that_ci_runs() -> None:
    assert set(commands()) >= BY_CI
    makefile, ci = (ROOT / "Makefile").read_text(), (ROOT / ".ci" / "run").read_text()
    for command in BY_CI:
        target = command.removeprefix("make ")
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
        assert re.search(rf"\bmake\b.*\b{target}\b", ci)


def test_the_example_configuration_fits_its_stages() -> None:
    for block in blocks("yaml"):
        for step in yaml.safe_load(block):
            document = step_document({"config": block, "step": step}, [])
            load(step).config.model_validate(document)


def test_the_parameters_named_are_the_pipelines() -> None:
    pipeline = (ROOT / "pipelines" / "dpo.py").read_text()
    for name in re.findall(r"-p (\w+)=", README.split("compose-rl rerun")[0]):
        assert re.search(rf"^    {name}: ", pipeline, flags=re.MULTILINE), name


def test_every_stage_has_its_row_and_every_link_its_file() -> None:
    assert re.findall(r"^\| (\w+) \|.*`compose-rl stage \1`", README, flags=re.MULTILINE) == list(NAMES)
    for link in re.findall(r"\]\(([^)]+)\)", README):
        if "://" not in link:
            assert (ROOT / link).exists(), link


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 200
