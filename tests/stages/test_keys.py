"""What a stage's key depends on: every part that can change the result, and nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest

from compose_rl.config.schema import Config, parse
from compose_rl.errors import UserError
from compose_rl.stages.spec import NAMES, StageSpec, load
from compose_rl.store.manifest import Manifest, stage_key

MINIMAL: dict[str, dict[str, Any]] = {
    "resolve": {"kind": "dataset", "uri": "x.jsonl"},
    "tokenize": {"dataset_type": "preference"},
    "vstar": {"max_gen_len": 8},
}
"""The fields that have no default, by stage."""
STAGES = [
    name for name in NAMES if (Path(__file__).parents[2] / f"compose_rl/stages/{name}/spec.py").exists()
]
PARTS: dict[str, Any] = {
    "stage": "tokenize",
    "version": 1,
    "config": {"a": 1, "b": {"c": None}},
    "inputs": {"data": "1" * 64},
    "code": {"rewards.py": "2" * 64},
}


def test_the_key_is_that_of_the_canonical_json() -> None:
    # printf '{"code":{},"config":{"a":1},"inputs":{},"stage":"s","version":1}' | sha256sum
    assert stage_key("s", 1, {"a": 1}, {}, {}).startswith("de0c0c59ec38")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("stage", "sft"),
        ("version", 2),
        ("config", {"a": 2, "b": {"c": None}}),
        ("config", {"a": 1, "b": {"c": 0}}),
        ("config", {"a": 1}),
        ("inputs", {"data": "3" * 64}),
        ("inputs", {"other": "1" * 64}),
        ("inputs", {}),
        ("code", {"rewards.py": "4" * 64}),
        ("code", {"other.py": "2" * 64}),
        ("code", {}),
    ],
)
def test_each_part_changes_the_key(part: str, value: Any) -> None:
    assert stage_key(**{**PARTS, part: value}) != stage_key(**PARTS)


def test_the_order_of_settings_does_not_change_the_key() -> None:
    assert stage_key(**{**PARTS, "config": {"b": {"c": None}, "a": 1}}) == stage_key(**PARTS)


def minimal(spec: StageSpec) -> Config:
    return parse(spec.config, MINIMAL.get(spec.name, {}), spec.name)


def other_value(value: Any, annotation: Any) -> Any:
    """A value of the same kind that is not the same."""
    if value is None:
        kinds = [get_origin(kind) or kind for kind in get_args(annotation)]
        return {"x": 1} if dict in kinds else ["x"] if list in kinds else "x"
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case list() | tuple():
            return [*value, "x"]
        case dict():
            nested = any(get_origin(kind) is dict for kind in get_args(annotation))
            return {**value, "x": {} if nested else 1}
        case date():
            return value + timedelta(days=1)
    raise AssertionError(f"no other value known for {value!r}")


def mutants(config: Config, neutral: bool, above: bool = False) -> Iterator[tuple[str, Config]]:
    """The configuration with one field changed at a time, nested ones too; neutral fields or the others."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        extra = field.json_schema_extra
        is_neutral = above or (isinstance(extra, dict) and bool(extra.get("neutral")))
        if isinstance(value, Config):
            for inner, changed in mutants(value, neutral, is_neutral):
                yield f"{name}.{inner}", config.model_copy(update={name: changed})
        elif is_neutral == neutral:
            yield name, config.model_copy(update={name: other_value(value, field.annotation)})


def key(spec: StageSpec, config: Config) -> str | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic's, on values that the schema would not let in
        try:
            return spec.key(config, {})
        except UserError:
            return None  # it names a file of code, which is read for the key


@pytest.mark.parametrize("name", STAGES)
def test_every_setting_changes_the_key_except_the_neutral_ones(name: str) -> None:
    spec = load(name)
    config = minimal(spec)
    before = key(spec, config)
    assert before is not None
    unseen = [field for field, changed in mutants(config, neutral=False) if key(spec, changed) == before]
    assert unseen == []
    seen = [field for field, changed in mutants(config, neutral=True) if key(spec, changed) != before]
    assert seen == []


@pytest.mark.parametrize("name", STAGES)
def test_a_recorded_configuration_gives_the_same_key_again(name: str) -> None:
    spec = load(name)
    config = minimal(spec)
    again = parse(spec.config, config.model_dump(mode="json"), name)
    assert spec.key(again, {}) == spec.key(config, {})


def test_the_key_follows_the_inputs_keys_not_their_places(toy: StageSpec) -> None:
    def earlier(**changes: Any) -> dict[str, Manifest]:
        facts = {"stage": "toy", "version": 1, "key": "1" * 64, "uri": "/a", "attempt": "x", "config": {}}
        return {"earlier": Manifest.model_validate({**facts, **changes})}

    config = toy.config()
    before = toy.key(config, earlier())
    assert toy.key(config, earlier(uri="/b", attempt="y", seconds=3.0, metrics={"m": 1.0})) == before
    assert toy.key(config, earlier(key="2" * 64)) != before
    assert toy.key(config, {}) != before


def test_neutral_settings_leave_the_result_as_it_is(toy: StageSpec, tmp_path: Path) -> None:
    from compose_rl.launch import run_stage

    contents = [
        [
            file.sha256
            for file in run_stage(toy, config, {}, str(tmp_path / store)).manifest.output("text").files
        ]
        for store, config in (("a", {}), ("b", {"pause": 0.1, "runs": str(tmp_path / "runs")}))
    ]
    assert contents[0] == contents[1]
