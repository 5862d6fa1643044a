"""Whether Kubeflow Pipelines answers, and in which version."""

from __future__ import annotations

import importlib.metadata
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from typing import Any

from compose_rl.errors import UserError
from compose_rl.launch.preflight.finding import Check, Unclear

__all__ = ["checks"]

_OLDEST = (2, 13)
"""The oldest backend that takes the compiled pipelines."""
_TIMEOUT_SECONDS = 10
_LOGIN = {401, 403}


def checks(host: str) -> Iterator[Check]:
    """The server, and the client library of this environment."""
    yield Check("Kubeflow Pipelines", partial(_server, host.rstrip("/")))
    yield Check("kfp package", _package)


def _server(host: str) -> str:
    url = f"{host}/apis/v2beta1/healthz"
    remedy = "give --host the address of its UI or of the service ml-pipeline"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:
            data = answer.read()
    except urllib.error.HTTPError as error:
        if error.code in _LOGIN:
            raise Unclear(
                f"{url}: asks for a login (HTTP {error.code}); its version cannot be seen"
            ) from None
        raise UserError(f"{url}: HTTP {error.code}; {remedy}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{url}: {getattr(error, 'reason', error)}; {remedy}") from None
    try:
        found: dict[str, Any] = json.loads(data)
    except ValueError:
        raise Unclear(f"{url}: answers with a page, as a login does; its version cannot be seen") from None
    return _judged(str(found.get("tag_name", "unknown")), host)


def _judged(version: str, host: str) -> str:
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    if numbers is None:
        raise Unclear(f"{host} answers and does not say its version; {_needed()} is needed")
    if (int(numbers[1]), int(numbers[2])) < _OLDEST:
        raise UserError(f"{host} has version {version}; {_needed()} is needed: update it")
    return f"version {version} at {host}"


def _needed() -> str:
    return f"{'.'.join(str(number) for number in _OLDEST)} or newer"


def _package() -> str:
    try:
        return importlib.metadata.version("kfp")
    except importlib.metadata.PackageNotFoundError:
        raise Unclear("not in this environment; pipelines are submitted from 'control'") from None
