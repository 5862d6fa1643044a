"""``compose-rl component``: a stage as a step of a Kubeflow pipeline, on a cluster or on this machine.

Everything comes in as KFP's executor input. Manifests are small files that KFP moves between steps; heavy
data stays in the storage. A step without its data is *absent*: its manifest is ``null``, and so are those of
the steps that need it, down to a step that has something else to hand on (input ``otherwise``).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from compose_rl.commands.executor import Artifact, ExecutorInput, write_output

if TYPE_CHECKING:
    from compose_rl.config.resources import Resources
    from compose_rl.stages.spec import StageSpec
    from compose_rl.store import Store
    from compose_rl.store.manifest import Manifest

__all__ = ["add", "publish", "retried", "run", "wanted"]

REPORTS = {"system.HTML": "report.html", "system.Markdown": "report.md"}
"""The file of a stage's output ``report`` that KFP's user interface shows, by type of artifact."""
ABSENT = "null"
"""What stands in the manifest file of an absent step."""
OTHERWISE = "otherwise"
"""The input that is handed on when the step itself is absent."""
WAITS = (15.0, 60.0)
"""Seconds before each further try of a step on a cluster that the outside world made fail. KFP's own retries
count every failure alike, and would repeat bad input as well."""

Result = TypeVar("Result")


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
        "--needs",
        default="",
        metavar="PARAMETER[=VALUE]",
        help="absent if this parameter of the component is empty, or not VALUE (which may be empty)",
    )
    parser.add_argument("--image", metavar="IMAGE", help="where a job of its own runs, if the stage has one")


def run(arguments: argparse.Namespace) -> None:
    from compose_rl.launch.kubernetes.identity import in_pipeline

    given = ExecutorInput.parse(arguments.executor_input)
    retried(lambda: _run(arguments, given), WAITS if in_pipeline() else ())


def retried(action: Callable[[], Result], waits: tuple[float, ...]) -> Result:
    """``action``'s result, with a further try after each of ``waits`` (seconds) if the outside world failed.

    Raises:
        TransientError: it failed the last time too.
    """
    from compose_rl.errors import TransientError

    for wait in waits:
        try:
            return action()
        except TransientError as error:
            print(f"failed: {error}; trying again in {wait:g} s", file=sys.stderr, flush=True)
            time.sleep(wait)
    return action()


def _run(arguments: argparse.Namespace, given: ExecutorInput) -> None:
    from compose_rl.config.steps import step_document
    from compose_rl.launch import run_stage
    from compose_rl.stages.spec import load
    from compose_rl.store import open_store
    from compose_rl.store.runs import Recorder

    spec = load(arguments.name)
    storage, step = given.parameters["storage"], given.parameters["step"]
    store = open_store(storage)
    inputs = _recorded(store, given) or {name: _read(artifact) for name, artifact in given.inputs.items()}
    otherwise = inputs.pop(OTHERWISE, None)
    needed = [name for name, slot in spec.inputs.items() if not slot.optional]
    missing = [f"no {name}" for name in needed if inputs.get(name) is None]
    if arguments.needs and not wanted(arguments.needs, given.parameters):
        missing.append(_unwanted(arguments.needs, given.parameters))
    recorder = Recorder(store, given.parameters["run"], step=step, stage=spec.name)
    if missing:
        message = " and ".join(missing)
        print(f"absent: {message}")
        publish(given, otherwise, state="absent")
        recorder.end("absent", manifest=otherwise.uri if otherwise else None, message=message)
        return
    present = {name: manifest for name, manifest in inputs.items() if manifest is not None}
    document = step_document(given.parameters, arguments.setting)
    resources = _resources(spec, given.parameters)
    asked = resources.model_dump(mode="json", exclude_defaults=True)
    uris = {name: manifest.uri for name, manifest in present.items()}
    with recorder.running(config=document, inputs=uris, resources=asked):
        outcome = run_stage(
            spec, document, present, storage, resources=resources, image=arguments.image, step=step
        )
        state = "checked" if spec.always else "reused" if outcome.cached else "made"
        print(f"{state} {outcome.manifest.uri}")
        publish(given, outcome.manifest, state)
        recorder.end(state, manifest=outcome.manifest.uri)


def wanted(needs: str, parameters: Mapping[str, Any]) -> bool:
    """Whether the parameters are what ``--needs`` asks for."""
    name, equals, value = needs.partition("=")
    return parameters[name] == value if equals else bool(parameters[name])


def _unwanted(needs: str, parameters: Mapping[str, Any]) -> str:
    """Why a step is absent whose parameters are not :func:`wanted`."""
    name, equals, value = needs.partition("=")
    return f"{name}={parameters[name]}" if equals and not value else f"no {needs}"


def _recorded(store: Store, given: ExecutorInput) -> dict[str, Manifest | None]:
    """What the step of a past run read, where this one repeats it."""
    from compose_rl.store.lineage import read_manifest
    from compose_rl.store.runs import read_record

    past = given.parameters.get("past")
    if not past:
        return {}
    record = read_record(store, past, given.parameters["step"])
    return {name: read_manifest(uri) for name, uri in record.inputs.items()}


def _resources(spec: StageSpec, parameters: Mapping[str, Any]) -> Resources:
    from compose_rl.config.resources import Resources
    from compose_rl.config.steps import step_resources

    if spec.accelerated:
        return step_resources(parameters, distributed=spec.distributed)
    return Resources()  # this is the stage's own pod


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
    for name, artifact in given.outputs.items():
        if name in contents:
            artifact.write(contents[name])
    write_output(given, metadata)


def _report(manifest: Manifest, artifact: Artifact | None) -> str:
    from compose_rl.store import join, split

    if artifact is None:
        return ""
    store, name = split(join(manifest.output("report").uri, REPORTS[artifact.type]))
    return store.read(name).decode()
