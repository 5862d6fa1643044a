"""What the Kubernetes API answers when it does not do what was asked, as exceptions with a remedy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from compose_rl.errors import UserError
from compose_rl.launch.kubernetes.resource import Resource

__all__ = [
    "AlreadyExists",
    "Conflict",
    "Expired",
    "Forbidden",
    "Invalid",
    "NotFound",
    "NotServed",
    "Unauthorized",
    "Unavailable",
    "one_line",
    "refusal",
]

_LONGEST = 400
"""Characters of a server's message that are shown."""
_BUSY = {408, 429}


class Unavailable(Exception):  # noqa: N818 (what the server is)
    """The server is away, overloaded or broken; asking again may help."""

    def __init__(self, reason: str, *, retry_after: float = 0, reached: bool = True) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        """Seconds that the server asked for."""
        self.reached = reached
        """Something answered."""


class NotFound(UserError):  # noqa: N818 (an outcome that callers act on)
    """404: no object of that name."""


class NotServed(UserError):  # noqa: N818
    """404: the API does not know this kind of object, or there is no such namespace."""


class AlreadyExists(UserError):  # noqa: N818
    """409: an object of that name is there; perhaps one's own, its answer lost."""


class Conflict(UserError):  # noqa: N818
    """409: the object was changed by somebody else since it was read."""


class Expired(UserError):  # noqa: N818
    """410: that resource version is gone; list again."""


class Forbidden(UserError):  # noqa: N818
    """403: RBAC, a quota or a policy."""


class Unauthorized(UserError):  # noqa: N818
    """401: the credentials are not accepted."""


class Invalid(UserError):  # noqa: N818
    """400, 422 and the like: the object is not one that the server takes."""


def one_line(text: object) -> str:
    """White space squeezed, and cut where it gets long."""
    line = " ".join(str(text).split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."


def refusal(
    status: int,
    body: bytes | Mapping[str, Any],
    *,
    verb: str,
    resource: Resource,
    name: str = "",
    namespace: str = "",
    retry_after: float = 0,
) -> Exception:
    """The exception for an answer that is no success.

    Args:
        status: HTTP status.
        body: the answer: usually a ``Status`` object.
        verb: as RBAC calls it.
        retry_after: seconds, as the server asked.
    """
    answer = _parsed(body)
    details: Mapping[str, Any] = answer.get("details") or {}
    reason, message = (
        str(answer.get("reason", "")),
        one_line(answer.get("message") or f"HTTP status {status}"),
    )
    what = f"{resource.plural} '{name}'" if name else resource.plural
    if resource.namespaced:
        what += f" in namespace '{namespace}'"
    if status in _BUSY or status >= 500:
        return Unavailable(f"{verb} {what}: {message}", retry_after=retry_after)
    if status == 404:
        return _missing(what, message, details, resource)
    if status == 409:
        kind = AlreadyExists if reason == "AlreadyExists" else Conflict
        return kind(f"{what}: {message}")
    if status == 403:
        return _forbidden(what, message, verb, resource, namespace)
    if status == 401:
        return Unauthorized(
            f"{verb} {what}: the API server does not accept the credentials; renew the kubeconfig's login,"
            " or check the pod's service account"
        )
    if status == 410 or reason in ("Expired", "Gone"):
        return Expired(f"{what}: {message}")
    return Invalid(f"{verb} {what}: refused: {message}")


def _parsed(body: bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(body, bytes):
        return body
    try:
        parsed = json.loads(body)
    except ValueError:
        return {"message": body.decode(errors="replace")}
    return parsed if isinstance(parsed, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _missing(what: str, message: str, details: Mapping[str, Any], resource: Resource) -> Exception:
    if details.get("kind") == "namespaces" and resource.plural != "namespaces":
        return NotServed(f"{what}: there is no such namespace; create it or choose another")
    if not details.get("name"):
        return NotServed(
            f"{what}: the cluster does not know {resource.full_name} ({resource.version});"
            f" install {resource.comes_with}"
        )
    return NotFound(f"{what}: {message}")


def _forbidden(what: str, message: str, verb: str, resource: Resource, namespace: str) -> Exception:
    if f"cannot {verb} resource" not in message:  # not RBAC: a quota, a Pod Security Standard, a webhook
        return Forbidden(f"{verb} {what}: {message}")
    return Forbidden(
        f"the service account may not {verb} {resource.full_name}"
        + (f" in namespace '{namespace}'" if resource.namespaced else "")
        + f"; apply the Role of manifests/base there ({message})"
    )
