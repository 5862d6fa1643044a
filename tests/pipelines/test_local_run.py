"""Pipelines run on this machine, each step as a process. These tests notice a kfp that works otherwise."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("kfp")

from kfp import dsl

from components.export.component import export
from components.resolve.component import resolve
from pipelines.local_runner import StepFailed, ordered, run
from pipelines.steps import Steps
from pipelines.wiring import Wiring

DPO = Path(__file__).parents[2] / "pipelines/dpo.py"


@dsl.pipeline(name="two-steps")
def two_steps(storage: str, given: str, missing: str):
    """The second step has no checkpoint, and so hands on what the first one found."""
    with Wiring(storage=storage, config="resolve_given: {revision: null}") as step:
        data = step("resolve_given", resolve, kind="dataset", uri=given)
        absent = step("resolve_missing", resolve, kind="dataset", uri=missing)
        step("export", export, checkpoint=absent, otherwise=data)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a dataset; every environment is this one."""
    for name in ("CONTROL", "TRAIN"):
        monkeypatch.setenv(f"COMPOSE_RL_ENV_{name}", sys.prefix)
    monkeypatch.setenv("COMPOSE_RL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a"}) + "\n")
    return tmp_path


def test_steps_run_as_processes_and_pass_manifests(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = here / "rows.jsonl"
    record = run(two_steps, {"storage": str(here / "store"), "given": str(rows), "missing": ""})

    assert [(step.name, step.state) for step in record.steps] == [
        ("resolve_given", "checked"),
        ("resolve_missing", "absent"),
        ("export", "absent"),
    ]
    first, missing, last = (step.manifest for step in record.steps)
    assert first is not None
    assert first.stage == "resolve"
    assert missing is None
    assert last == first
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("resolve_given | ") for line in lines)
    assert all(line.partition(" | ")[0] in ("resolve_given", "resolve_missing", "export") for line in lines)


@dsl.pipeline(name="given-judge")
def given_judge(storage: str, base_model: str, preferences: str, judge: str):
    with Wiring(storage=storage, config="", nodes=1, gpus=0, resources="") as step:
        pairs = step("resolve_preferences", resolve, kind="dataset", uri=preferences)
        steps = Steps.of(step, base_model, 0)
        steps.judge(steps.base, pairs, judge)


def test_a_reward_model_that_is_given_goes_on_and_none_is_trained(here: Path) -> None:
    for name, architecture in (("base", "LlamaForCausalLM"), ("judge", "LlamaForSequenceClassification")):
        (here / name).mkdir()
        (here / name / "config.json").write_text(json.dumps({"architectures": [architecture]}))
        (here / name / "model.safetensors").write_bytes(b"weights")
    sources = {"base_model": "base", "preferences": "rows.jsonl", "judge": "judge"}
    values = {name: str(here / place) for name, place in sources.items()}
    record = run(given_judge, {"storage": str(here / "store"), **values})

    found = {step.name: step for step in record.steps}
    assert {name: found[name].state for name in ("resolve_reward_model", "reward_model")} == {
        "resolve_reward_model": "checked",
        "reward_model": "absent",
    }
    judge = found["export_reward_model"].manifest
    assert judge is not None
    assert judge.info["architectures"] == ["LlamaForSequenceClassification"]


def test_failed_step_ends_the_run_with_its_error(here: Path) -> None:
    with pytest.raises(StepFailed, match=r"resolve_given: .*nowhere") as caught:
        run(two_steps, {"storage": str(here / "store"), "given": str(here / "nowhere"), "missing": ""})
    assert caught.value.exit_code == 2
    # Of the steps after it none began, not even the one that does not need it.
    (folder,) = (here / "store/runs").iterdir()
    assert [path.name for path in folder.iterdir()] == ["resolve_given.json"]


def test_a_report_that_fails_fails_the_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every command but the report works."""
    environment = here / "environment/bin"
    environment.mkdir(parents=True)
    (environment / "python").symlink_to(sys.executable)
    (environment / "compose-rl").write_text(
        f'#!/bin/sh\n[ "$1" = report ] && {{ echo "error: no report"; exit 75; }}\n'
        f'exec {Path(sys.prefix, "bin/compose-rl")} "$@"\n'
    )
    (environment / "compose-rl").chmod(0o755)
    monkeypatch.setenv("COMPOSE_RL_ENV_CONTROL", str(environment.parent))
    values = {"storage": str(here / "store"), "given": str(here / "rows.jsonl"), "missing": ""}
    with pytest.raises(StepFailed, match="report_run: no report") as caught:
        run(two_steps, values)
    assert caught.value.exit_code == 75


def test_failing_run_ends_with_the_error_line(here: Path) -> None:
    command = [sys.executable, str(DPO), "--run", "--storage", str(here / "store")]
    sources = ["-p", f"base_model={here / 'nowhere'}", "-p", "preferences="]
    done = subprocess.run([*command, *sources], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: resolve_model: ")
    assert "nowhere" in done.stderr.splitlines()[-1]


def test_step_ends_with_the_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a step would go on for ten minutes."""
    environment = here / "environment/bin"
    environment.mkdir(parents=True)
    (environment / "python").symlink_to(sys.executable)
    (environment / "compose-rl").write_text("#!/bin/sh\nexec sleep 600\n")
    (environment / "compose-rl").chmod(0o755)
    monkeypatch.setenv("COMPOSE_RL_ENV_CONTROL", str(environment.parent))
    command = [sys.executable, str(DPO), "--run", "-p", "base_model=m", "-p", "preferences="]
    process = subprocess.Popen(command, cwd=here)
    step = within_a_minute(lambda: children(process.pid))[0]
    process.kill()
    process.wait()
    within_a_minute(lambda: not Path(f"/proc/{step}").exists())


def within_a_minute(look: Callable[[], Any]) -> Any:
    """The first true thing that is seen."""
    deadline = time.monotonic() + 60
    while not (seen := look()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return seen


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_data_comes_before_training() -> None:
    def task(component: str, *upstream: str) -> SimpleNamespace:
        return SimpleNamespace(component_ref=SimpleNamespace(name=component), dependent_tasks=upstream)

    tasks = {
        "export": task("comp-export", "sft"),
        "sft": task("comp-sft", "resolve"),
        "resolve-2": task("comp-resolve-2"),
        "resolve": task("comp-resolve"),
        "tokenize": task("comp-tokenize", "resolve-2"),
    }
    assert ordered(tasks)[::-1] == ["resolve", "resolve-2", "tokenize", "sft", "export"]
