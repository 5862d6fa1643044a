"""The reward server's HTTP."""

from __future__ import annotations

import hmac
import json
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from compose_rl.rewards.server.scorer import BadRequest, Scorer

__all__ = ["RewardServer"]

_LARGEST = 256 * 2**20
"""Bytes of a request."""


class RewardServer(ThreadingHTTPServer):
    """``GET /health`` -> health; ``POST /score`` {sequences} -> {scores, errors} (:meth:`Scorer.score`)."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], scorer: Scorer, health: dict[str, Any], token: str) -> None:
        """``token``: what a request must bear, or the empty text."""
        super().__init__(address, _Handler)
        self.scorer = scorer
        self.health = health
        self.token = token

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One that has gone before its answer came is no error here."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: RewardServer
    protocol_version = "HTTP/1.1"
    timeout = 60.0

    def do_GET(self) -> None:
        if self.path != "/health":
            return self._refuse(HTTPStatus.NOT_FOUND, "there are GET /health and POST /score")
        return self._answer(HTTPStatus.OK, self.server.health)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > _LARGEST:
            return self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {_LARGEST} bytes")
        body = self.rfile.read(length)
        if self.path != "/score":
            return self._refuse(HTTPStatus.NOT_FOUND, "there are GET /health and POST /score")
        if not self._may():
            return self._refuse(HTTPStatus.UNAUTHORIZED, "bear the token that the server was started with")
        try:
            document = json.loads(body)
            sequences = document.get("sequences") if isinstance(document, dict) else None
            return self._answer(HTTPStatus.OK, self.server.scorer.score(sequences))
        except (ValueError, BadRequest) as error:
            return self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except Exception as error:
            return self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}")

    def _may(self) -> bool:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return not self.server.token or hmac.compare_digest(given.encode(), self.server.token.encode())

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        # What is left of the request is not read.
        self.close_connection = True
        self._answer(status, {"error": reason})

    def _answer(self, status: HTTPStatus, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for every request would drown the rest."""
