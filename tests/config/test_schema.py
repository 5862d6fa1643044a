"""Configurations are parsed once, and what is wrong is named with its remedy."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import Field

from compose_rl.config.schema import Config, canonical, neutral, parse, unknown_key
from compose_rl.errors import UserError


class Inner(Config):
    rate: float = Field(0.1, gt=0)
    label: str = neutral("", "in the logs")


class Outer(Config):
    kind: Literal["a", "b"]
    inner: Inner = Inner()
    maybe: Inner | None = None
    steps: int = 1
    verbose: bool = neutral(False, "say more")


def test_an_unknown_key_is_named_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"^x config: unknown key 'stepps'; did you mean 'steps'\?$"):
        parse(Outer, {"kind": "a", "stepps": 2}, "x config")


@pytest.mark.parametrize("place", ["inner", "maybe"])
def test_an_unknown_key_inside_is_named_with_its_place(place: str) -> None:
    with pytest.raises(UserError, match=rf"^x config.{place}: unknown key 'rat'; did you mean 'rate'\?$"):
        parse(Outer, {"kind": "a", place: {"rat": 2}}, "x config")


def test_a_key_like_no_other_gets_the_whole_list() -> None:
    assert unknown_key("zzz", ["b", "a"], "x") == "x: unknown key 'zzz'; known keys: a, b"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "x: 'kind' is missing; set it"),
        ({"kind": "c"}, "x: kind='c': Input should be 'a' or 'b'"),
        ({"kind": "a", "steps": "many"}, "x: steps='many': Input should be a valid integer"),
        ({"kind": "a", "inner": {"rate": 0}}, "x: inner.rate=0: Input should be greater than 0"),
        ({"kind": "c", "steps": None}, "; x: steps=None"),
    ],
)
def test_a_wrong_value_is_named(document: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(Outer, document, "x")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_neutral_fields_are_no_part_of_the_canonical_form() -> None:
    config = parse(Outer, {"kind": "a", "verbose": True, "inner": {"label": "l"}}, "x")
    assert canonical(config) == {"kind": "a", "inner": {"rate": 0.1}, "maybe": None, "steps": 1}


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse(Outer, {"kind": "a"}, "x").steps = 3  # type: ignore[misc]
