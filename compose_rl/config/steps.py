"""A pipeline's ``config`` and ``resources``: documents with a section per step, over plain parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import yaml

from compose_rl.config.document import merge
from compose_rl.config.resources import Resources
from compose_rl.config.schema import parse
from compose_rl.errors import UserError

__all__ = ["DEFAULT_SECTION", "PLAIN_RESOURCES", "sections", "step_document", "step_resources"]

Section = dict[str, Any]

DEFAULT_SECTION = "default"
"""The section of ``resources`` for every step."""
PLAIN_RESOURCES = {"nodes": "nodes", "gpus": "gpus_per_node"}
"""The key of the resources that each plain parameter sets."""
_SINGLE = ("nodes", "procs_per_node", "gpus_per_node")
"""What a stage that runs as one process takes one of, at most."""


def sections(text: str, name: str = "config") -> dict[str, Section]:
    """The sections of a document by the step they are for.

    Args:
        name: of the parameter that holds the document, for the message.

    Raises:
        UserError: it is not a YAML mapping of mappings.
    """
    try:
        document: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not YAML: {' '.join(str(error).split())}") from None
    if document is None:
        return {}
    if not isinstance(document, Mapping):
        raise UserError(
            f"{name}: {document!r} is no mapping; write a section per step, 'step: {{key: value}}'"
        )
    found: dict[str, Section] = {}
    for step, section in cast(Mapping[str, Any], document).items():
        if section is not None and not isinstance(section, Mapping):
            raise UserError(f"{name}: {step}={section!r} is no mapping; write '{step}: {{key: value}}'")
        found[step] = dict(cast(Mapping[str, Any], section or {}))
    return found


def step_document(parameters: Mapping[str, Any], settings: Iterable[str]) -> Section:
    """The configuration of a step's stage: plain parameters, and over them the step's section of ``config``.

    Args:
        parameters: of the component: ``config``, ``step`` and those that ``settings`` name.
        settings: ``parameter=key`` for each parameter that sets a key (dotted) of the configuration. An empty
            text or 0 leaves the stage's own default.

    Raises:
        UserError: see :func:`sections`.
    """
    plain: Section = {}
    for setting in settings:
        parameter, _, key = setting.partition("=")
        if parameters[parameter] not in ("", 0):
            plain = merge(plain, _nested(key, parameters[parameter]))
    return merge(plain, sections(parameters["config"]).get(parameters["step"], {}))


def step_resources(parameters: Mapping[str, Any], *, distributed: bool) -> Resources:
    """What a step's job asks of its place: plain parameters, the section ``default``, the step's own section.

    Args:
        parameters: of the component: ``nodes``, ``gpus``, ``resources`` and ``step``. 0 leaves the default.
        distributed: the stage runs as several processes. One that does not takes at most one node, process
            and GPU of what is set for all steps.

    Raises:
        UserError: an unknown key, a value that does not parse, or more than one of them in the own section of
            a step that runs as one process.
    """
    step = parameters["step"]
    found = sections(parameters["resources"], "resources")
    plain = {key: parameters[name] for name, key in PLAIN_RESOURCES.items() if parameters[name]}
    document = merge(plain, found.get(DEFAULT_SECTION, {}))
    shared = parse(Resources, document, f"resources {DEFAULT_SECTION}")
    if not distributed:
        document = merge(document, {key: min(1, getattr(shared, key)) for key in _SINGLE})
    own = parse(Resources, merge(document, found.get(step, {})), f"resources {step}")
    if not distributed:
        for key in _SINGLE:
            if getattr(own, key) > 1:
                raise UserError(
                    f"resources {step}: {key}={getattr(own, key)}, but this step runs as one process; set 1"
                )
    return own


def _nested(key: str, value: Any) -> Section:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value
