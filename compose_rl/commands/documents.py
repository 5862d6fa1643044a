"""Configuration documents and inputs from command lines."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from compose_rl.errors import UserError
from compose_rl.store.lineage import read_manifest
from compose_rl.store.manifest import Manifest

__all__ = ["add_config", "document", "overridden", "pairs", "read_inputs"]


def add_config(parser: argparse.ArgumentParser) -> None:
    """The flags that every command with a configuration has."""
    parser.add_argument(
        "--config", default="", metavar="YAML", help="configuration: a YAML file, or YAML itself"
    )
    parser.add_argument(
        "--set",
        "-p",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one value, for instance a.b=0.1",
    )


def document(text: str, flag: str = "--config") -> dict[str, Any]:
    """A document from a file's path or from YAML text.

    Args:
        flag: where the text comes from, for the message.

    Raises:
        UserError: neither, or not a mapping.
    """
    where = flag
    path = Path(text)
    if text and "\n" not in text and ":" not in text:
        if not path.is_file():
            raise UserError(f"{flag} {text}: no such file; give a YAML file or YAML text")
        where, text = text, path.read_text()
    try:
        parsed = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not YAML: {' '.join(str(error).split())}") from None
    if parsed is None:
        return {}
    if not isinstance(parsed, dict):
        raise UserError(f"{where}: a mapping is needed, this is {type(parsed).__name__}; write 'key: value'")
    return parsed


def pairs(items: Iterable[str], flag: str) -> dict[str, str]:
    """``key=value`` items as a dictionary."""
    found: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UserError(f"{flag} {item}: write {flag} key=value")
        found[key] = value
    return found


def overridden(config: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """``config`` with each ``a.b=value`` put in its place; values are YAML."""
    result = _copied(config)
    for key, text in pairs(settings, "--set").items():
        *path, name = key.split(".")
        place = result
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise UserError(f"--set {key}={text}: '{part}' is no group of settings; check the key")
        try:
            place[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"--set {key}={text}: not a YAML value; quote it") from None
    return result


def _copied(value: Any) -> Any:
    return {key: _copied(item) for key, item in value.items()} if isinstance(value, dict) else value


def read_inputs(items: Iterable[str]) -> dict[str, Manifest]:
    """``slot=manifest`` items."""
    return {slot: read_manifest(uri) for slot, uri in pairs(items, "--input").items()}
