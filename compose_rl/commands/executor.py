"""KFP's executor input, all that a component gets, and executor output, which tells of what it made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Artifact", "ExecutorInput", "write_output"]

MOUNTS = {"gs://": "/gcs/", "minio://": "/minio/", "s3://": "/s3/"}
"""Where KFP's launcher has the artifacts of an object store; local runs give plain paths."""


@dataclass(frozen=True)
class Artifact:
    """One artifact of KFP's executor input."""

    name: str
    uri: str
    type: str

    @property
    def path(self) -> Path:
        """Where it lies in this container."""
        for scheme, mount in MOUNTS.items():
            if self.uri.startswith(scheme):
                return Path(mount + self.uri.removeprefix(scheme))
        return Path(self.uri)

    def write(self, text: str) -> None:
        """Make it hold ``text``."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class ExecutorInput:
    """What KFP puts in place of ``{{$}}``."""

    parameters: Mapping[str, Any]
    inputs: Mapping[str, Artifact]
    outputs: Mapping[str, Artifact]
    output_file: Path

    @classmethod
    def parse(cls, text: str) -> ExecutorInput:
        document = json.loads(text)
        inputs = document.get("inputs", {})
        return cls(
            parameters=inputs.get("parameterValues", {}),
            inputs=_artifacts(inputs.get("artifacts", {})),
            outputs=_artifacts(document["outputs"].get("artifacts", {})),
            output_file=Path(document["outputs"]["outputFile"]),
        )


def _artifacts(document: Mapping[str, Any]) -> dict[str, Artifact]:
    found: dict[str, Artifact] = {}
    for name, group in document.items():
        first = group["artifacts"][0]
        kind = first.get("type", {}).get("schemaTitle", "")
        found[name] = Artifact(name=first.get("name", name), uri=first["uri"], type=kind)
    return found


def write_output(given: ExecutorInput, metadata: Mapping[str, Mapping[str, Any]]) -> None:
    """Tell KFP of all output artifacts, each with its metadata, if any."""
    written = {
        name: {
            "artifacts": [{"name": artifact.name, "uri": artifact.uri, "metadata": metadata.get(name, {})}]
        }
        for name, artifact in given.outputs.items()
    }
    given.output_file.parent.mkdir(parents=True, exist_ok=True)
    # KFP's parser takes no NaN; a manifest has none, and this would refuse one.
    given.output_file.write_text(json.dumps({"artifacts": written}, allow_nan=False), encoding="utf-8")
