"""Specifications check what they are given before anything runs."""

from __future__ import annotations

import pytest

from compose_rl.errors import UserError
from compose_rl.stages.spec import NAMES, StageSpec, load
from compose_rl.store.manifest import Manifest


def manifest(stage: str) -> Manifest:
    return Manifest(stage=stage, version=1, key="1" * 64, uri="/a/manifest.json", attempt="x", config={})


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_is_described(name: str) -> None:
    spec = load(name)
    assert spec.name == name
    assert spec.entry == f"compose_rl.stages.{name}.run"
    assert {stage for slot in spec.inputs.values() for stage in slot.stages} <= set(NAMES)


def test_a_wrong_input_is_named_with_what_fits(toy: StageSpec) -> None:
    with pytest.raises(
        UserError, match=r"'earlier' is a result of 'sft' \(/a/manifest.json\); it takes one of: toy"
    ):
        toy.parse({}, {"earlier": manifest("sft")})


def test_an_unknown_input_is_named_with_the_nearest(toy: StageSpec) -> None:
    with pytest.raises(UserError, match=r"toy inputs: unknown key 'earlyer'; did you mean 'earlier'\?"):
        toy.parse({}, {"earlyer": manifest("toy")})


def test_a_missing_input_is_named() -> None:
    with pytest.raises(UserError, match=r"tokenize: input 'source' is missing \("):
        load("tokenize").parse({"dataset_type": "preference"}, {})


def test_an_unknown_stage_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown key 'tokenise'; did you mean 'tokenize'"):
        load("tokenise")
