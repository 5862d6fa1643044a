"""``compose-rl component``: a stage as a step of a Kubeflow pipeline, on a cluster or on this machine.

Everything comes in as KFP's executor input. Manifests are small files that KFP moves between steps; heavy
data stays in the storage. A step without its data is *absent*: its manifest is ``null``, and so are those of
the steps that need it, down to a step that has something else to hand on (input ``otherwise``).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compose_rl.store.manifest import Manifest

__all__ = ["Artifact", "ExecutorInput", "add", "publish", "run"]

MOUNTS = {"gs://": "/gcs/", "minio://": "/minio/", "s3://": "/s3/"}
"""Where KFP's launcher has the artifacts of an object store; local runs give plain paths."""
REPORTS = {"system.HTML": "report.html", "system.Markdown": "report.md"}
"""The file of a stage's output ``report`` that KFP's user interface shows, by type of artifact."""
ABSENT = "null"
"""What stands in the manifest file of an absent step."""
OTHERWISE = "otherwise"
"""The input that is handed on when the step itself is absent."""


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


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="stage, for instance tokenize")
    parser.add_argument("--executor-input", required=True, metavar="JSON", help="what KFP puts for {{$}}")
    parser.add_argument(
        "--setting",
        action="append",
        default=[],
        metavar="PARAMETER=KEY",
        help="the configuration key that a parameter of the component sets, where it isn't empty",
    )
    parser.add_argument(
        "--needs", default="", metavar="PARAMETER", help="absent if this parameter of the component is empty"
    )
    parser.add_argument("--image", metavar="IMAGE", help="where a job of its own runs, if the stage has one")


def run(arguments: argparse.Namespace) -> None:
    from compose_rl.config.resources import Resources
    from compose_rl.config.steps import step_document, step_resources
    from compose_rl.launch import run_stage
    from compose_rl.stages.spec import load

    spec = load(arguments.name)
    given = ExecutorInput.parse(arguments.executor_input)
    inputs = {name: _read(artifact) for name, artifact in given.inputs.items()}
    otherwise = inputs.pop(OTHERWISE, None)
    missing = [name for name, slot in spec.inputs.items() if not slot.optional and inputs.get(name) is None]
    if arguments.needs and not given.parameters[arguments.needs]:
        missing.append(arguments.needs)
    if missing:
        print(f"absent: no {' and no '.join(missing)}")
        publish(given, otherwise, state="absent")
        return
    document = step_document(given.parameters, arguments.setting)
    present = {name: manifest for name, manifest in inputs.items() if manifest is not None}
    resources = (
        step_resources(given.parameters, distributed=spec.distributed)
        if spec.accelerated
        else Resources(backend="process")  # this is the pod of the stage itself
    )
    outcome = run_stage(
        spec,
        document,
        present,
        given.parameters["storage"],
        resources=resources,
        image=arguments.image,
        step=given.parameters["step"],
    )
    state = "checked" if spec.always else "reused" if outcome.cached else "made"
    print(f"{state} {outcome.manifest.uri}")
    publish(given, outcome.manifest, state)


def _read(artifact: Artifact) -> Manifest | None:
    from compose_rl.store.manifest import Manifest

    text = artifact.path.read_text(encoding="utf-8")
    return None if text.strip() == ABSENT else Manifest.from_json(text, str(artifact.path))


def publish(given: ExecutorInput, manifest: Manifest | None, state: str) -> None:
    """Write the component's outputs, and the file that tells KFP of them.

    Args:
        state: ``made``, ``reused``, ``checked`` (a source, looked at anew) or ``absent``.
    """
    contents = {
        "manifest": ABSENT if manifest is None else manifest.to_json(),
        "report": "" if manifest is None else _report(manifest, given.outputs.get("report")),
    }
    metadata: dict[str, dict[str, Any]] = {"manifest": {"state": state}}
    if manifest is not None:
        metadata["manifest"] |= {"stage": manifest.stage, "key": manifest.key, "uri": manifest.uri}
        metadata["metrics"] = manifest.metrics
    written: dict[str, Any] = {}
    for name, artifact in given.outputs.items():
        if name in contents:
            artifact.path.parent.mkdir(parents=True, exist_ok=True)
            artifact.path.write_text(contents[name], encoding="utf-8")
        entry = {"name": artifact.name, "uri": artifact.uri, "metadata": metadata.get(name, {})}
        written[name] = {"artifacts": [entry]}
    given.output_file.parent.mkdir(parents=True, exist_ok=True)
    # KFP's parser takes no NaN; a manifest has none, and this would refuse one.
    given.output_file.write_text(json.dumps({"artifacts": written}, allow_nan=False), encoding="utf-8")


def _report(manifest: Manifest, artifact: Artifact | None) -> str:
    from compose_rl.store import join, split

    if artifact is None:
        return ""
    store, name = split(join(manifest.output("report").uri, REPORTS[artifact.type]))
    return store.read(name).decode()
