"""What can be known of a run before its first step: do all configurations and resources fit?"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from google.protobuf.json_format import MessageToDict
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from compose_rl.commands import component
from compose_rl.config.schema import parse, unknown_key
from compose_rl.config.steps import (
    DEFAULT_SECTION,
    PLAIN_RESOURCES,
    sections,
    step_document,
    step_resources,
)
from compose_rl.errors import UserError
from compose_rl.stages.spec import load

__all__ = ["Step", "check", "steps"]

COMMAND = ["compose-rl", "component"]
"""How the container of a stage begins."""


@dataclass(frozen=True)
class Step:
    """A step as the compiled pipeline has it."""

    name: str
    task: str
    """What KFP calls it."""
    stage: str
    parameters: Mapping[str, Any]
    """Of its component, with the run's values filled in."""
    sources: Mapping[str, str]
    """The pipeline's parameter behind those that are not constants."""
    settings: list[str]
    needs: str
    image: str | None
    """Of the job that it launches, if it does."""

    @property
    def absent(self) -> bool:
        """Whether the source that it needs is not given, or the run is of another kind."""
        return bool(self.needs) and not component.wanted(self.needs, self.parameters)


def steps(spec: PipelineSpec, values: Mapping[str, Any]) -> Iterator[Step]:
    """The steps of a compiled pipeline, for a run with these parameters."""
    document = MessageToDict(spec)
    yield from _steps(document, document["root"], {name: (value, name) for name, value in values.items()})


def _steps(document: Any, place: Any, bound: Mapping[str, tuple[Any, str | None]]) -> Iterator[Step]:
    """Those of a part of the pipeline.

    Args:
        bound: its inputs: each with its value, and the pipeline's parameter that it comes from.
    """
    for name, task in place["dag"]["tasks"].items():
        component = document["components"][task["componentRef"]["name"]]
        inputs = {
            key: _bound(source, bound)
            for key, source in task.get("inputs", {}).get("parameters", {}).items()
            if "taskFinalStatus" not in source
        }
        if "dag" in component:
            yield from _steps(document, component, inputs)
        else:
            container = document["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
            if container["command"][:2] == COMMAND:
                yield _step(name, container, inputs)


def _bound(source: Any, bound: Mapping[str, tuple[Any, str | None]]) -> tuple[Any, str | None]:
    if "componentInputParameter" in source:
        return bound[source["componentInputParameter"]]
    return source["runtimeValue"]["constant"], None


def _step(task: str, container: Any, inputs: Mapping[str, tuple[Any, str | None]]) -> Step:
    parser = argparse.ArgumentParser()
    component.add(parser)
    command = parser.parse_args([*container["command"][len(COMMAND) :], *container["args"]])
    parameters = {name: value for name, (value, _) in inputs.items()}
    sources = {name: source for name, (_, source) in inputs.items() if source is not None}
    return Step(
        parameters["step"],
        task,
        command.name,
        parameters,
        sources,
        command.setting,
        command.needs,
        command.image,
    )


def check(spec: PipelineSpec, values: Mapping[str, Any], given: Collection[str]) -> None:
    """Check a run's parameters against the stages of its steps.

    Args:
        values: every parameter.
        given: the names of those that the user set.

    Raises:
        UserError: names the step, the key, the value and the remedy.
    """
    found = {step.name: step for step in steps(spec, values)}
    launched = {name: step for name, step in found.items() if "resources" in step.parameters}
    _check_names(sections(values["config"]), found, "config")
    resources = sections(values["resources"], "resources")
    _check_names(resources, [DEFAULT_SECTION, *launched], "resources")
    for name, key in PLAIN_RESOURCES.items():
        chosen = resources.get(DEFAULT_SECTION, {}).get(key, values[name])
        _agree(name, values[name] if name in given else None, f"resources: {DEFAULT_SECTION}.{key}", chosen)
    for step in launched.values():
        step_resources(step.parameters, distributed=load(step.stage).distributed)
    for step in found.values():
        if not step.absent:
            document = step_document(step.parameters, step.settings)
            _check_agreement(step, document, given)
            parse(load(step.stage).config, document, f"{step.name} config")


def _check_names(given: Iterable[str], known: Iterable[str], where: str) -> None:
    names = list(known)
    for name in given:
        if name not in names:
            raise UserError(unknown_key(name, names, where))


def _check_agreement(step: Step, document: Mapping[str, Any], given: Collection[str]) -> None:
    """A parameter that the user set and the section of ``config`` that wins over it."""
    for setting in step.settings:
        parameter, _, key = setting.partition("=")
        source = step.sources.get(parameter)
        if source in given:
            chosen = reduce(_below, key.split("."), document)
            _agree(source, step.parameters[parameter], f"config: {step.name}.{key}", chosen)


def _agree(parameter: str, value: Any, key: str, chosen: Any) -> None:
    if value and chosen != value:
        raise UserError(f"{parameter}={value!r}, but {key}={chosen!r}; set one of them")


def _below(place: Any, part: str) -> Any:
    return place.get(part) if isinstance(place, Mapping) else None
