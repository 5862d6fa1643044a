"""One server, as its client sees it."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from compose_rl.errors import UserError
from compose_rl.rollouts.messages import Answers, Asked, WeightsAt, bearer, dump, parse

__all__ = ["Connection", "ServerLost"]

_SCHEMES = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
_KEEP_ALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Half a minute of silence, in seconds and questions that nobody answers."""
_SHORT = 10.0
"""Seconds for what needs no engine."""


class ServerLost(Exception):  # noqa: N818 (what happened)
    """No answer, or one that says that the engine failed: another server, or this one later, may do."""


class Connection:
    """Calls to the server at ``url``; each has a connection of its own, past any proxy.

    Raises:
        UserError: ``url`` is not ``http(s)://host:port``; of each call: the server refused what was asked.
        ServerLost: of each call.
    """

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES or not parts.hostname:
            raise UserError(f"engine.urls: {url!r}: give addresses such as http://host:8000")
        self.url = url
        self._make = _SCHEMES[parts.scheme]
        self._address = parts.netloc.rpartition("@")[2]
        self._timeout = timeout

    def health(self) -> dict[str, Any]:
        return self._json("GET", "/health", timeout=_SHORT)

    def generate(self, asked: Asked) -> Answers:
        """Raises UserError also when what comes back is no answer."""
        body = self._call("POST", "/generate", dump(asked))
        try:
            return parse(Answers, body)
        except UserError as error:
            raise UserError(f"rollout server {self.url}: its answer is wrong: {error}") from None

    def weights_at(self, folder: Path, version: int) -> bool:
        """False: the server does not see the folder."""
        body = dump(WeightsAt(path=str(folder), version=version))
        return self._call("POST", "/weights", body, absent_is=b"") != b""

    def send_weights(self, file: Path, version: int) -> None:
        with file.open("rb") as stream:
            self._call("PUT", f"/weights?version={version}", stream, length=file.stat().st_size)

    def sleep(self) -> None:
        self._json("POST", "/sleep")

    def wake(self) -> None:
        self._json("POST", "/wake")

    def shutdown(self) -> None:
        self._json("POST", "/shutdown", timeout=_SHORT)

    def _json(self, method: str, path: str, timeout: float | None = None) -> dict[str, Any]:
        body = self._call(method, path, b"", timeout=timeout)
        try:
            return json.loads(body)
        except ValueError:
            raise UserError(
                f"rollout server {self.url}: {method} {path} gave no JSON; is it a rollout server?"
            ) from None

    def _call(
        self,
        method: str,
        path: str,
        body: Any,
        *,
        length: int | None = None,
        timeout: float | None = None,
        absent_is: bytes | None = None,
    ) -> bytes:
        token = bearer()
        headers = {"Content-Length": str(len(body) if length is None else length)}
        if token is not None:
            headers["Authorization"] = token
        connection = self._make(self._address, timeout=timeout or self._timeout)
        try:
            connection.connect()
            _keep_alive(connection.sock)
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise ServerLost(f"{self.url}: {type(error).__name__}: {error}") from None
        finally:
            connection.close()
        if answer.status == http.client.OK:
            return content
        if answer.status == http.client.CONFLICT and absent_is is not None:
            return absent_is
        message = _message(content)
        if answer.status >= 500:
            raise ServerLost(f"{self.url}: {answer.status} {message}")
        raise UserError(f"rollout server {self.url}: {message}")


def _keep_alive(connection: socket.socket) -> None:
    """Have the kernel look whether the other machine is still there: one that is lost says nothing."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return content[:200].decode(errors="replace")
