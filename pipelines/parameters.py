"""The parameters of a pipeline, from ``-p name=value`` on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from compose_rl.config.schema import unknown_key
from compose_rl.errors import UserError

__all__ = ["declared", "parsed", "with_defaults"]

KINDS = {
    "STRING": (str, "text"),
    "NUMBER_INTEGER": (int, "a whole number"),
    "NUMBER_DOUBLE": (float, "a number"),
}


def declared(spec: PipelineSpec) -> dict[str, dict[str, Any]]:
    """The pipeline's parameters by name: ``parameterType``, ``defaultValue``, ``description``."""
    document = MessageToDict(spec)
    return document["root"].get("inputDefinitions", {}).get("parameters", {})


def parsed(items: Iterable[str], known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``name=value`` items as values of their parameters' types.

    Raises:
        UserError: an unknown name, or a value that is not of the parameter's type.
    """
    values: dict[str, Any] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals:
            raise UserError(f"-p {item}: write -p name=value")
        if name not in known:
            raise UserError(unknown_key(name, list(known), "parameters"))
        kind, words = KINDS[known[name]["parameterType"]]
        try:
            values[name] = kind(text)
        except ValueError:
            raise UserError(f"-p {item}: '{name}' is {words}") from None
    return values


def with_defaults(values: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A value for every parameter.

    Raises:
        UserError: one without a default is missing.
    """
    missing = [name for name, about in known.items() if name not in values and "defaultValue" not in about]
    if missing:
        raise UserError(f"parameters: {', '.join(missing)} missing; give -p {missing[0]}=...")
    kinds = {name: KINDS[about["parameterType"]][0] for name, about in known.items()}
    return {
        name: values[name] if name in values else kinds[name](about["defaultValue"])
        for name, about in known.items()
    }
