"""Typed, frozen configuration: parsed once, unknown keys refused, messages that name the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from compose_rl.errors import UserError

__all__ = ["Config", "canonical", "neutral", "parse", "problem", "unknown_key"]


class Config(BaseModel):
    """Base of every configuration: frozen, and a key that the schema lacks is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


ConfigT = TypeVar("ConfigT", bound=Config)
_SAYS_ALL = "says_all"


def neutral(default: Any, description: str) -> Any:
    """A field that cannot change a stage's result (logging, resources), and so is no part of its key."""
    return Field(default, description=description, json_schema_extra={"neutral": True})


def canonical(config: Config) -> dict[str, Any]:
    """The configuration as plain JSON values, without neutral fields: what a stage's key is made of."""
    result: dict[str, Any] = {}
    dumped = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        if _is_neutral(field):
            continue
        value = getattr(config, name)
        result[name] = canonical(value) if isinstance(value, Config) else dumped[name]
    return result


def _is_neutral(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and cast(dict[str, Any], extra).get("neutral") is True


def unknown_key(key: str, known: list[str], where: str) -> str:
    """One line that names an unknown key and the nearest known one."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    remedy = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(sorted(known))}"
    return f"{where}: unknown key '{key}'; {remedy}"


def problem(message: str) -> PydanticCustomError:
    """What a validator raises when its message says all: field, value and remedy.

    :func:`parse` then shows no value of its own, which could be long, or a credential.
    """
    return PydanticCustomError(_SAYS_ALL, "{message}", {"message": message})


def parse(schema: type[ConfigT], document: Mapping[str, Any], where: str) -> ConfigT:
    """Parse ``document`` as ``schema``.

    Args:
        where: what the document is, for the message, for instance ``"tokenize config"``.

    Raises:
        UserError: a line per problem, each with the field, the value and what is expected.
    """
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        problems = [_problem(schema, dict(e), where) for e in error.errors()]
        raise UserError("; ".join(problems)) from None


def _problem(schema: type[Config], error: dict[str, Any], where: str) -> str:
    location = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        return unknown_key(
            location[-1], _known_keys(schema, location[:-1]), ".".join([where, *location[:-1]])
        )
    field = ".".join(location) or "document"
    message = cast(str, error["msg"]).removeprefix("Value error, ")
    if error["type"] == _SAYS_ALL:
        return f"{where}: {message}"
    if error["type"] == "missing":
        return f"{where}: '{field}' is missing; set it"
    return f"{where}: {field}={error['input']!r}: {message}"


def _known_keys(schema: type[Config], path: list[str]) -> list[str]:
    current: type[BaseModel] = schema
    for part in path:
        field = current.model_fields.get(part)
        inner = _model_of(field.annotation) if field else None
        if inner is None:
            return []
        current = inner
    return list(current.model_fields)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The configuration class in a field's type, also of an optional one."""
    candidates = get_args(annotation) or (annotation,)
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
