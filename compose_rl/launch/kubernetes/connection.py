# The kubernetes client comes without types, and only the control environment has it.
# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false
"""Requests to an API server, through the client library's configuration and connection pool.

The only module that imports ``kubernetes``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from compose_rl.errors import UserError
from compose_rl.launch.kubernetes.refusals import Unavailable, one_line

__all__ = ["Say", "connect", "lines", "parsed", "retry_after", "say", "send", "translated"]

Say = Callable[[str], None]
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_LONGEST_RETRY_AFTER = 60.0
_CHUNK_BYTES = 1 << 16


def say(line: str) -> None:
    """A line in this process's own log."""
    print(line, flush=True)


def connect(context: str | None, namespace: str | None) -> tuple[Any, str]:
    """A client and the namespace that it works in; see :meth:`Api.connect`. Sends nothing yet."""
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise UserError(
            "a Kubernetes backend needs the Python package 'kubernetes'; use the environment 'control'"
        ) from error
    settings = client.Configuration()
    if context is None and config.incluster_config.SERVICE_HOST_ENV_NAME in os.environ:
        try:
            config.load_incluster_config(settings)
        except config.ConfigException as error:
            raise UserError(
                f"this pod has no service account token ({one_line(error)});"
                " set automountServiceAccountToken or pass a kubeconfig's context"
            ) from error
        found = _read(_SERVICE_ACCOUNT / "namespace")
    else:
        found = _load_kubeconfig(settings, context)
    namespace = namespace or found
    if not namespace:
        raise UserError(
            "no namespace: neither the pod's service account nor the kubeconfig's context names one;"
            " run 'kubectl config set-context --current --namespace=...' or pass a namespace"
        )
    _check_name(settings)
    return client.ApiClient(settings), namespace


def _check_name(settings: Any) -> None:
    """A name that nobody knows stays unknown, unlike a server that is away."""
    host = urlsplit(settings.host).hostname
    if settings.proxy or not host:  # the proxy looks names up
        return
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror as error:
        if error.errno == socket.EAI_NONAME:
            raise UserError(
                f"{settings.host}: there is no host of that name; check the kubeconfig's server"
            ) from error


def _load_kubeconfig(settings: Any, context: str | None) -> str:
    """The namespace of the context, or an empty string."""
    import yaml
    from kubernetes import config
    from kubernetes.config import kube_config

    file = os.environ.get("KUBECONFIG") or kube_config.KUBE_CONFIG_DEFAULT_LOCATION
    remedy = "set KUBECONFIG, or run 'kubectl config get-contexts' and choose one of these"
    try:
        config.load_kube_config(file, context=context, client_configuration=settings, persist_config=False)
        contexts, current = config.list_kube_config_contexts(file)
    except (config.ConfigException, yaml.YAMLError, OSError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"kubeconfig {file}: {one_line(error)}; {remedy}") from error
    chosen = current if context is None else next(c for c in contexts if c["name"] == context)
    return str(chosen["context"].get("namespace") or "")


def _read(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def send(
    client: Any,
    method: str,
    path: str,
    *,
    body: bytes | None = None,
    content_type: str,
    timeouts: tuple[float, float],
) -> Any:
    """The response, its body not read yet.

    Args:
        timeouts: seconds to connect, and between two bytes.

    Raises:
        Unavailable: nothing answered.
        UserError: what answered is not the server of the kubeconfig.
    """
    import urllib3

    headers = {"Accept": "application/json", "User-Agent": "compose-rl"}
    if body is not None:
        headers["Content-Type"] = content_type
    with translated(client):
        client.update_params_for_auth(headers, [], ["BearerToken"])
        return client.rest_client.pool_manager.request(
            method,
            client.configuration.host + path,
            body=body,
            headers=headers,
            timeout=urllib3.Timeout(connect=timeouts[0], read=timeouts[1]),
            preload_content=False,
            retries=False,  # the caller has the patience, and may not send everything twice
        )


@contextlib.contextmanager
def translated(client: Any) -> Generator[None]:
    """What the network says, as one line."""
    from urllib3 import exceptions

    host = client.configuration.host
    try:
        yield
    except exceptions.SSLError as error:
        if "EOF" in str(error):  # cut off in the middle, as by a proxy whose server is away
            raise Unavailable(f"{host}: {one_line(error)}", reached=False) from error
        raise UserError(
            f"{host}: TLS: {one_line(error)}; check the kubeconfig's certificate-authority and server"
        ) from error
    except (exceptions.LocationValueError, exceptions.URLSchemeUnknown) as error:
        raise UserError(f"{host}: {one_line(error)}; check the kubeconfig's server") from error
    except (exceptions.HTTPError, OSError) as error:
        raise Unavailable(f"{host}: {_network(error)}", reached=False) from error


def _network(error: Exception) -> str:
    """The part of a network error that a person can use."""
    return re.sub(r"^<?HTTPS?Connection(Pool)?\(.*?\)>?: ", "", one_line(error))


def parsed(client: Any, data: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: this is no Kubernetes API.
    """
    try:
        found = json.loads(data)
    except ValueError as error:
        raise UserError(
            f"{client.configuration.host}: does not answer like a Kubernetes API server;"
            " check the kubeconfig's server"
        ) from error
    return found


def retry_after(response: Any) -> float:
    """Seconds that the server asks to be left alone; 0 where it does not say."""
    value = str(response.headers.get("Retry-After", ""))
    return min(float(value), _LONGEST_RETRY_AFTER) if value.isdigit() else 0.0


def lines(response: Any, broken: Callable[[], None]) -> Iterator[str]:
    """The lines of a body as they come. A broken connection ends them, and drops a line that is cut off.

    Args:
        broken: is told of it.
    """
    from urllib3 import exceptions

    rest = b""
    try:
        for chunk in response.stream(_CHUNK_BYTES):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line.decode(errors="replace")
    except (exceptions.HTTPError, OSError, ValueError):  # ValueError: closed by another thread
        broken()
        return
    if rest:
        yield rest.decode(errors="replace")
