"""Pin what is mutable: a name becomes a commit, files become checksums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from compose_rl.config.schema import Config
from compose_rl.errors import UserError
from compose_rl.stages.spec import StageSpec
from compose_rl.store.manifest import Manifest

__all__ = ["SPEC", "ResolveConfig"]


class ResolveConfig(Config):
    """Where a model or a dataset comes from."""

    kind: Literal["model", "dataset"]
    uri: str = Field(min_length=1)
    """A local file or folder, ``s3://bucket/path``, or an id on the Hugging Face hub."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; its default branch if left out."""
    split: str | None = None
    """Of a dataset."""
    subset: str | None = None
    """Of a hub dataset: its configuration's name."""


def _check(config: ResolveConfig, inputs: Mapping[str, Manifest]) -> None:
    if config.kind == "model":
        for name in ("split", "subset"):
            value = getattr(config, name)
            if value is not None:
                raise UserError(f"resolve config: {name}={value!r}: a model has none; leave it out")


SPEC = StageSpec(
    name="resolve",
    version=1,
    doc="Pin a model or a dataset to its present content.",
    config=ResolveConfig,
    inputs={},
    outputs={},
    environment="control",
    always=True,
    check=_check,
)
