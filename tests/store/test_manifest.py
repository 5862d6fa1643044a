"""Manifests: whole or refused."""

from __future__ import annotations

from typing import Any

import pytest

from compose_rl.errors import UserError
from compose_rl.store.manifest import Manifest, canonical_json

FACTS: dict[str, Any] = {
    "stage": "toy",
    "version": 1,
    "key": "1" * 64,
    "uri": "/a/manifest.json",
    "attempt": "x",
    "config": {"a": None},
}


def test_a_manifest_comes_back_as_it_was() -> None:
    manifest = Manifest.model_validate({**FACTS, "metrics": {"loss": 0.1}, "info": {"n": [1, {"b": "c"}]}})
    assert Manifest.from_json(manifest.to_json(), "x") == manifest


def test_every_cut_of_a_manifest_is_refused() -> None:
    text = Manifest.model_validate(FACTS).to_json().rstrip()
    for end in range(len(text)):
        with pytest.raises(UserError, match=r"^x: "):
            Manifest.from_json(text[:end], "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_metrics_are_finite(value: float) -> None:
    with pytest.raises(ValueError, match="leave it out where it is undefined"):
        Manifest.model_validate({**FACTS, "metrics": {"loss": value}})


@pytest.mark.parametrize(
    ("text", "message"),
    [("[]", "not a manifest but list"), ('{"stage": "x", "colour": 1}', "unknown key 'colour'")],
)
def test_what_is_no_manifest_is_named(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Manifest.from_json(text, "x")


def test_an_unknown_output_is_named_with_those_there_are() -> None:
    manifest = Manifest.model_validate({**FACTS, "outputs": {"model": {"uri": "/m", "files": []}}})
    with pytest.raises(UserError, match="stage 'toy' has no output 'modle'; it has: model"):
        manifest.output("modle")


def test_canonical_json_is_equal_for_equal_values() -> None:
    assert canonical_json({"b": 1, "a": [1.0, "é"]}) == '{"a":[1.0,"\\u00e9"],"b":1}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})
