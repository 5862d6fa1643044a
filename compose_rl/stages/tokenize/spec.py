"""From raw rows to token shards, held-out split and data report."""

from __future__ import annotations

from collections.abc import Mapping

from compose_rl.config.data import TokenizeConfig
from compose_rl.errors import UserError
from compose_rl.stages.spec import Slot, StageSpec
from compose_rl.store.manifest import Manifest

__all__ = ["SPEC"]

_KINDS = {"source": "dataset", "validation": "dataset", "tokenizer": "model"}


def _check(config: TokenizeConfig, inputs: Mapping[str, Manifest]) -> None:
    for name, kind in _KINDS.items():
        manifest = inputs.get(name)
        if manifest is not None and manifest.stage == "resolve" and manifest.info.get("kind") != kind:
            raise UserError(
                f"tokenize: input '{name}' is a {manifest.info.get('kind')} ({manifest.info.get('uri')});"
                f" resolve it with kind: {kind}"
            )
    if "source" in inputs and "validation" in inputs and inputs["source"].key == inputs["validation"].key:
        raise UserError(
            "tokenize: inputs 'source' and 'validation' are the same rows;"
            " give another split or leave 'validation' out"
        )


SPEC = StageSpec(
    name="tokenize",
    version=1,
    doc="Tokenize rows into MDS shards, hold out a validation split, report on the data.",
    config=TokenizeConfig,
    inputs={
        "source": Slot(stages=("resolve",), doc="the raw rows"),
        "tokenizer": Slot(stages=("resolve", "export"), doc="a model whose tokenizer is used"),
        "validation": Slot(stages=("resolve",), doc="raw rows of a held-out split of its own", optional=True),
    },
    outputs={
        "train": "MDS shards",
        "validation": "MDS shards of the held-out split",
        "report": "report.json and report.md",
    },
    environment="train",
    check=_check,
)
