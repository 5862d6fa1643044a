"""The Hugging Face hub's HTTP interface, as far as pinning needs it (``HF_ENDPOINT``, ``HF_TOKEN``)."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from compose_rl.errors import TransientError, UserError

__all__ = ["commit", "read"]

_ATTEMPTS = 4
FIRST_WAIT_SECONDS = 1.0
"""Doubles from one attempt to the next."""
_TIMEOUT_SECONDS = 20
_RETRIED = {408, 429, 500, 502, 503, 504}
_FOLDERS = {"model": "models", "dataset": "datasets"}


def commit(kind: str, name: str, revision: str | None) -> tuple[str, list[str]]:
    """The commit SHA of a model or dataset, and its files' names.

    Raises:
        UserError: it is not there, or this token may not read it.
        TransientError: the hub cannot be reached.
    """
    path = f"api/{_FOLDERS[kind]}/{name}/revision/{urllib.parse.quote(revision or 'main', safe='')}"
    try:
        document: dict[str, Any] = json.loads(_get(path, f"{kind} '{name}'", revision))
        return str(document["sha"]), [str(item["rfilename"]) for item in document.get("siblings", [])]
    except (ValueError, KeyError, TypeError):
        raise TransientError(
            f"{_endpoint()}/{path}: the answer is not the hub's; check HF_ENDPOINT"
        ) from None


def read(name: str, sha: str, path: str) -> bytes:
    """A small file of a model at a commit."""
    return _get(f"{name}/resolve/{sha}/{path}", f"model '{name}'", sha)


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _get(path: str, what: str, revision: str | None) -> bytes:
    url = f"{_endpoint()}/{path}"
    token = os.environ.get("HF_TOKEN")
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    reason = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            if error.code not in _RETRIED:
                raise _refused(error.code, what, revision) from None
            reason = f"status {error.code}"
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            reason = str(getattr(error, "reason", error))
    raise TransientError(
        f"{what} is no local path, and the hub does not answer ({url}: {reason});"
        " check the path, the network and HF_ENDPOINT"
    )


def _refused(code: int, what: str, revision: str | None) -> UserError:
    at = f" at revision '{revision}'" if revision else ""
    if code == 404:
        return UserError(f"{what}{at}: neither a local path nor on the hub ({_endpoint()}); check the name")
    if code in (401, 403):
        return UserError(
            f"{what}{at}: the hub ({_endpoint()}) knows no such name or keeps it private or gated;"
            " check the name, set HF_TOKEN, accept its licence"
        )
    return UserError(f"{what}{at}: the hub ({_endpoint()}) answered {code}; check the name and HF_ENDPOINT")
