"""A pipeline's ``config``: one YAML document with a section per step, over a component's plain parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import yaml

from compose_rl.config.document import merge
from compose_rl.errors import UserError

__all__ = ["sections", "step_document"]

Section = dict[str, Any]


def sections(config: str) -> dict[str, Section]:
    """The sections of ``config`` by the step they are for.

    Raises:
        UserError: it is not a YAML mapping of mappings.
    """
    try:
        document: Any = yaml.safe_load(config)
    except yaml.YAMLError as error:
        raise UserError(f"config: not YAML: {' '.join(str(error).split())}") from None
    if document is None:
        return {}
    if not isinstance(document, Mapping):
        raise UserError(
            f"config: {document!r} is no mapping; write a section per step, 'step: {{key: value}}'"
        )
    found: dict[str, Section] = {}
    for step, section in cast(Mapping[str, Any], document).items():
        if section is not None and not isinstance(section, Mapping):
            raise UserError(f"config: {step}={section!r} is no mapping; write '{step}: {{key: value}}'")
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


def _nested(key: str, value: Any) -> Section:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value
