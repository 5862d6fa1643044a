"""What trainer and server say to each other: JSON, checked where it comes in.

Imports nothing heavy.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from compose_rl.errors import UserError
from compose_rl.rollouts.types import Completion, Request, Sampling

__all__ = ["TOKEN_VARIABLE", "Answers", "Asked", "WeightsAt", "bearer", "dump", "parse"]

TOKEN_VARIABLE = "COMPOSE_RL_ROLLOUT_TOKEN"
"""Environment variable with what a server wants to see in a request, where it is set."""


@dataclass(frozen=True)
class Asked:
    """Body of ``POST /generate``."""

    requests: list[Request]
    sampling: Sampling


@dataclass(frozen=True)
class Answers:
    """What comes back."""

    completions: list[list[Completion]]
    version: int


@dataclass(frozen=True)
class WeightsAt:
    """Body of ``POST /weights``: a folder of safetensors on the server's machine."""

    path: str
    version: int


T = TypeVar("T", Asked, Answers, WeightsAt)

_ADAPTERS: dict[type, TypeAdapter[object]] = {kind: TypeAdapter(kind) for kind in (Asked, Answers, WeightsAt)}


def parse(kind: type[T], body: bytes) -> T:
    """Raises UserError: the body is not a ``kind``; the line says where."""
    try:
        value = _ADAPTERS[kind].validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "body"
        raise UserError(f"{place}: {first['msg']} ({kind.__name__}, docs/architecture.md)") from None
    assert isinstance(value, kind)
    return value


def dump(value: Asked | Answers | WeightsAt) -> bytes:
    return _ADAPTERS[type(value)].dump_json(value)


def bearer() -> str | None:
    """The header ``Authorization`` that requests carry."""
    token = os.environ.get(TOKEN_VARIABLE)
    return f"Bearer {token}" if token else None
