"""The parameters of a pipeline, from ``-p name=value`` on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.json_format import MessageToDict
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from compose_rl.config.schema import unknown_key
from compose_rl.errors import UserError

__all__ = ["declared", "parsed", "read_file", "with_defaults"]

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


def read_file(path: str, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Parameters from a YAML file; ``config`` may be text or a mapping there.

    Raises:
        UserError: not such a file, or see :func:`parsed`.
    """
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--parameters {path}: {error.strerror}; give a readable YAML file") from None
    except yaml.YAMLError as error:
        raise UserError(f"--parameters {path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, Mapping):
        raise UserError(f"--parameters {path}: no mapping; write a line 'name: value' per parameter")
    texts = {
        name: yaml.safe_dump(value) if isinstance(value, Mapping) else value
        for name, value in document.items()
    }
    return parsed((f"{name}={value}" for name, value in texts.items()), known)


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
