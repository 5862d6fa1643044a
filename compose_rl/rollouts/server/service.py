"""The rollout server: HTTP of the standard library around an engine (docs/architecture.md, "Online RL")."""

from __future__ import annotations

import hmac
import json
import tempfile
import threading
import traceback
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from compose_rl.errors import UserError
from compose_rl.rollouts.messages import Answers, Asked, WeightsAt, bearer, dump, parse
from compose_rl.rollouts.requests import check_requests
from compose_rl.rollouts.server.backend import Backend
from compose_rl.rollouts.server.safetensors_headers import folder_shapes
from compose_rl.rollouts.server.turns import Turns
from compose_rl.rollouts.shapes import check_shapes
from compose_rl.rollouts.versions import installed_versions

__all__ = ["RolloutServer"]

_MOST_BYTES = 1 << 28
"""Of a request that is no weights."""
_TIED = frozenset({"lm_head.weight", "embed_out.weight"})
"""Names that an output layer has which may be the input embeddings."""


class NotHereError(Exception):
    """A folder that this machine does not have."""


class RolloutServer(ThreadingHTTPServer):
    """Serves ``backend`` at ``server_port`` until :meth:`shutdown`.

    Args:
        model: folder that the backend was started with, whose weights' names and shapes new ones must have.
        idle_seconds: it ends by itself when the engine was not used for so long; 0: never.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], backend: Backend, model: Path, idle_seconds: float = 0
    ) -> None:
        super().__init__(address, _Handler)
        self.backend = backend
        self.turns = Turns()
        self.shapes = folder_shapes(model)
        tied = json.loads((model / "config.json").read_text()).get("tie_word_embeddings", False)
        self.tied = _TIED if tied else frozenset[str]()
        self.idle_seconds = idle_seconds
        self.versions = installed_versions()
        self._awake = True

    def service_actions(self) -> None:
        """Called twice a second."""
        if self.idle_seconds and self.turns.idle() > self.idle_seconds:
            print(f"rollout server: not asked for {self.idle_seconds:.0f} s, ends", flush=True)
            threading.Thread(target=self.shutdown, daemon=True).start()

    def drain(self, seconds: float) -> None:
        """End as soon as the engine was not used for so long; what is asked until then is answered."""
        self.idle_seconds = seconds

    def health(self) -> dict[str, Any]:
        backend = self.backend
        sizes = {"vocab_size": backend.vocab_size, "max_length": backend.max_length}
        state = {"version": backend.version, "awake": self._awake, "versions": self.versions}
        return state | sizes | backend.health()

    def generate(self, asked: Asked) -> Answers:
        check_requests(asked.requests, asked.sampling, self.backend.vocab_size, self.backend.max_length)
        self.wake()
        with self.turns.generating():
            completions = self.backend.generate(asked.requests, asked.sampling)
            return Answers(completions=completions, version=self.backend.version)

    def load(self, folder: Path, version: int) -> None:
        if not folder.is_dir():
            raise NotHereError(f"path: {folder}: there is no such folder on the server's machine")
        check_shapes(folder_shapes(folder), self.shapes, self.tied)
        self.wake()
        with self.turns.changing():
            self.backend.load_weights(folder, version)

    def sleep(self) -> None:
        with self.turns.changing():
            self.backend.sleep()
            self._awake = False

    def wake(self) -> None:
        if not self._awake:
            with self.turns.changing():
                self.backend.wake()
                self._awake = True


class _Handler(BaseHTTPRequestHandler):
    server: RolloutServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def log_message(self, format: str, *args: Any) -> None:
        """No line for each request."""

    def _answer(self, method: str) -> None:
        asked = (method, urlsplit(self.path).path)
        route = self._ROUTES.get(asked)
        expected = None if asked in self._OPEN else bearer()
        given = self.headers.get("Authorization") or ""
        if expected is not None and not hmac.compare_digest(given.encode(), expected.encode()):
            self._refuse(HTTPStatus.UNAUTHORIZED, "Authorization: the token is missing or another one")
            return
        if route is None:
            known = ", ".join(" ".join(one) for one in self._ROUTES)
            self._refuse(HTTPStatus.NOT_FOUND, f"{method} {self.path}: not known; known: {known}")
            return
        try:
            body = route(self)
        except UserError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except NotHereError as error:
            self._refuse(HTTPStatus.CONFLICT, str(error))
        except Exception as error:
            traceback.print_exc()
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}")
        else:
            self._send(HTTPStatus.OK, body)

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        # What is left of the body is not read.
        self.close_connection = True
        self._send(status, json.dumps({"error": message}).encode())

    def _send(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _length(self) -> int:
        try:
            return int(self.headers["Content-Length"])
        except (TypeError, ValueError):
            raise UserError("Content-Length: missing; send the body's size in bytes") from None

    def _body(self) -> bytes:
        length = self._length()
        if length > _MOST_BYTES:
            raise UserError(f"body: {length} bytes, more than {_MOST_BYTES}; ask for fewer answers at a time")
        return self.rfile.read(length)

    def _state(self) -> bytes:
        return json.dumps({"version": self.server.backend.version}).encode()

    def _health(self) -> bytes:
        return json.dumps(self.server.health()).encode()

    def _generate(self) -> bytes:
        return dump(self.server.generate(parse(Asked, self._body())))

    def _load(self) -> bytes:
        asked = parse(WeightsAt, self._body())
        self.server.load(Path(asked.path), asked.version)
        return self._state()

    def _receive(self) -> bytes:
        query = parse_qs(urlsplit(self.path).query)
        try:
            (version,) = map(int, query["version"])
        except (KeyError, ValueError):
            raise UserError(f"{self.path}: give the weights' number as ?version=N") from None
        left = self._length()
        with tempfile.TemporaryDirectory(prefix="compose-rl-weights-") as folder:
            with (Path(folder) / "model.safetensors").open("wb") as file:
                while left and (part := self.rfile.read(min(left, 1 << 20))):
                    file.write(part)
                    left -= len(part)
            self.server.load(Path(folder), version)
        return self._state()

    def _sleep(self) -> bytes:
        self.server.sleep()
        return self._state()

    def _wake(self) -> bytes:
        self.server.wake()
        return self._state()

    def _shutdown(self) -> bytes:
        # From another thread, since it waits for the loop that answers this.
        threading.Thread(target=self.server.shutdown, daemon=True).start()
        return self._state()

    _OPEN = frozenset({("GET", "/health")})
    """What needs no token: Kubernetes asks for it, and has none."""
    _ROUTES: ClassVar[dict[tuple[str, str], Callable[[_Handler], bytes]]] = {
        ("GET", "/health"): _health,
        ("POST", "/generate"): _generate,
        ("POST", "/weights"): _load,
        ("PUT", "/weights"): _receive,
        ("POST", "/sleep"): _sleep,
        ("POST", "/wake"): _wake,
        ("POST", "/shutdown"): _shutdown,
    }
