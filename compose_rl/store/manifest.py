"""The manifest: what a stage made, from what, and where it lies. Written last: its presence means done."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, cast

from pydantic import Field, field_validator

from compose_rl.config.schema import Config, parse
from compose_rl.errors import UserError

__all__ = ["MANIFEST_NAME", "File", "Input", "Manifest", "Output", "canonical_json", "digest", "stage_key"]

MANIFEST_NAME = "manifest.json"


class File(Config):
    """A file of an output."""

    path: str
    """Relative to the output's URI, with forward slashes."""
    size: int
    """Bytes."""
    sha256: str


class Output(Config):
    """A folder that a stage wrote."""

    uri: str
    """Absolute: ``<storage>/<stage>/<key>/<attempt>/<output name>``, a path or s3:// URI."""
    files: tuple[File, ...]


class Input(Config):
    """What a stage read: another stage's result, by key and by the place of its manifest."""

    stage: str
    key: str
    uri: str


class Manifest(Config):
    """A finished stage. Small: heavy data stays where ``outputs`` say."""

    format: int = 1
    stage: str
    version: int
    """The stage specification's version."""
    key: str
    uri: str
    """The manifest's own place: ``<storage>/<stage>/<key>/manifest.json``."""
    attempt: str
    config: dict[str, Any]
    """The whole configuration, neutral fields included."""
    inputs: dict[str, Input] = Field(default_factory=dict)
    code: dict[str, str] = Field(default_factory=dict)
    """User source files by name, with their SHA-256."""
    outputs: dict[str, Output] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    """Scalars, finite."""
    info: dict[str, Any] = Field(default_factory=dict)
    """Small facts that later stages check without heavy imports: vocabulary, columns, lengths, counts."""
    created: str = ""
    """UTC, ISO 8601."""
    seconds: float = 0.0
    """Wall time of the attempt that finished."""
    versions: dict[str, str] = Field(default_factory=dict)
    commit: str = ""
    image: str = ""

    @field_validator("metrics")
    @classmethod
    def _finite(cls, metrics: dict[str, float]) -> dict[str, float]:
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise ValueError(f"metric '{name}' is {value}; leave it out where it is undefined")
        return metrics

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Manifest:
        """Parse a manifest.

        Raises:
            UserError: the text is not a whole manifest.
        """
        try:
            document = json.loads(text)
        except ValueError as error:
            raise UserError(
                f"{where}: not a whole manifest ({error}); delete it and run the stage again"
            ) from None
        if not isinstance(document, dict):
            raise UserError(
                f"{where}: not a manifest but {type(document).__name__}; give a stage's manifest.json"
            )
        return parse(cls, cast(dict[str, Any], document), where)

    def output(self, name: str) -> Output:
        """The output called ``name``.

        Raises:
            UserError: this stage has no such output.
        """
        if name not in self.outputs:
            raise UserError(
                f"{self.uri}: stage '{self.stage}' has no output '{name}';"
                f" it has: {', '.join(sorted(self.outputs))}"
            )
        return self.outputs[name]


def canonical_json(value: Any) -> str:
    """JSON that is equal for equal values: sorted keys, no white space, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def stage_key(
    stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, str], code: Mapping[str, str]
) -> str:
    """The content key of a stage's result.

    Args:
        config: canonical configuration, see :func:`compose_rl.config.schema.canonical`.
        inputs: key of each input by its name.
        code: SHA-256 of each user source file by its name.

    Returns:
        64 hexadecimal digits.
    """
    parts = {
        "stage": stage,
        "version": version,
        "config": dict(config),
        "inputs": dict(inputs),
        "code": dict(code),
    }
    return digest(canonical_json(parts).encode())
