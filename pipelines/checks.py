"""What can be known of a run before its first step: does every step's configuration fit its stage?"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import MessageToDict
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from compose_rl.commands import component
from compose_rl.config.schema import parse, unknown_key
from compose_rl.config.steps import sections, step_document
from compose_rl.errors import UserError
from compose_rl.stages.spec import load

__all__ = ["Step", "check", "steps"]


@dataclass(frozen=True)
class Step:
    """A step as the compiled pipeline has it."""

    name: str
    stage: str
    parameters: Mapping[str, Any]
    """Of its component, with the run's values filled in."""
    settings: list[str]
    needs: str

    @property
    def absent(self) -> bool:
        """Whether the source that it needs is not given."""
        return bool(self.needs) and not self.parameters[self.needs]


def steps(spec: PipelineSpec, values: Mapping[str, Any]) -> Iterator[Step]:
    """The steps of a compiled pipeline, for a run with these parameters."""
    document = MessageToDict(spec)
    for task in document["root"]["dag"]["tasks"].values():
        label = document["components"][task["componentRef"]["name"]]["executorLabel"]
        container = document["deploymentSpec"]["executors"][label]["container"]
        parser = argparse.ArgumentParser()
        component.add(parser)
        command = parser.parse_args([*container["command"][2:], *container["args"]])
        parameters = {
            name: _value(source, values) for name, source in task["inputs"].get("parameters", {}).items()
        }
        yield Step(parameters["step"], command.name, parameters, command.setting, command.needs)


def _value(source: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    if "componentInputParameter" in source:
        return values[source["componentInputParameter"]]
    return source["runtimeValue"]["constant"]


def check(spec: PipelineSpec, values: Mapping[str, Any]) -> None:
    """Check a run's parameters against the stages of its steps.

    Raises:
        UserError: names the step, the key, the value and the remedy.
    """
    found = {step.name: step for step in steps(spec, values)}
    for name in sections(values["config"]):
        if name not in found:
            raise UserError(unknown_key(name, list(found), "config"))
    for step in found.values():
        if not step.absent:
            document = step_document(step.parameters, step.settings)
            parse(load(step.stage).config, document, f"{step.name} config")
