"""A step of a past run again: its settings then, with changes, checked before a server is asked."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("kfp")

from kfp import dsl

from components.export.component import export
from components.resolve.component import resolve
from compose_rl.errors import UserError
from compose_rl.store import open_store
from compose_rl.store.runs import read_run
from pipelines.checks import Step, steps
from pipelines.dpo import dpo
from pipelines.local_runner import run
from pipelines.parameters import declared, with_defaults
from pipelines.rerun import again, one_step
from pipelines.target import Target, compiled, images_of
from pipelines.wiring import Wiring

GIVEN: dict[str, Any] = {
    "base_model": "m",
    "preferences": "p.jsonl",
    "storage": "/s",
    "gpus": 2,
    "resources": "default: {memory: 8Gi}\nsft: {memory: 16Gi}\noffline_rl: {nodes: 2}",
    "config": "offline_rl: {max_duration: 2ep}",
}


def step(name: str, **changed: Any) -> Step:
    values = with_defaults({**GIVEN, **changed}, declared(dpo.pipeline_spec))
    return next(step for step in steps(dpo.pipeline_spec, values) if step.name == name)


def test_settings_are_those_of_the_run_and_the_changes() -> None:
    found = again(step("offline_rl"), "run-1", ["model.beta=0.3"], ["memory=64Gi"])
    assert yaml.safe_load(found["config"]) == {
        "offline_rl": {"max_duration": "2ep", "model": {"loss_type": "dpo", "beta": 0.3}}
    }
    assert yaml.safe_load(found["resources"]) == {
        "default": {"memory": "8Gi"},
        "offline_rl": {"nodes": 2, "memory": "64Gi"},
    }
    assert (found["gpus"], found["past"], found["storage"]) == (2, "run-1", "/s")


@pytest.mark.parametrize(
    ("name", "changes", "resources", "words"),
    [
        ("offline_rl", ["max_durations=1ep"], [], "did you mean 'max_duration'"),
        ("offline_rl", [], ["memory=lots"], "memory='lots'"),
        ("evaluate", [], ["gpus_per_node=2"], "runs as one process"),
        ("tokenize_preferences", [], ["memory=1Gi"], "tokenize_preferences launches no job"),
        ("resolve_prompts", [], [], "it had nothing to do"),
    ],
)
def test_bad_changes_are_named(name: str, changes: list[str], resources: list[str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        again(step(name), "run-1", changes, resources)
    assert words in str(caught.value)


def test_images_of_the_past_run_are_found() -> None:
    target = Target(images={"train": f"x/train@sha256:{'a' * 64}", "control": "y/control:2"})
    specification = next(yaml.safe_load_all(compiled(dpo, target)))
    assert images_of(specification) == dict(target.images)


@dsl.pipeline(name="two-steps")
def two_steps(storage: str, given: str):
    with Wiring(storage=storage, config="") as add:
        data = add("resolve_given", resolve, kind="dataset", uri=given)
        absent = add("resolve_missing", resolve, kind="dataset", uri="")
        add("export", export, checkpoint=absent, otherwise=data)


def test_a_step_runs_again_by_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONTROL", "TRAIN"):
        monkeypatch.setenv(f"COMPOSE_RL_ENV_{name}", sys.prefix)
    monkeypatch.setenv("COMPOSE_RL_CACHE", str(tmp_path / "cache"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "a"}) + "\n")
    storage = str(tmp_path / "store")
    values = {"storage": storage, "given": str(rows)}
    first = run(two_steps, values)

    (past,) = Path(storage, "runs").iterdir()
    (found,) = (step for step in steps(two_steps.pipeline_spec, values) if step.name == "resolve_given")
    second = run(one_step(found), again(found, past.name))
    assert [(step.name, step.manifest) for step in second.steps] == [
        ("resolve_given", first.steps[0].manifest)
    ]
    runs = {folder.name for folder in Path(storage, "runs").iterdir()} - {past.name}
    (record,) = read_run(open_store(storage), runs.pop())
    assert (record.step, record.state) == ("resolve_given", "checked")
