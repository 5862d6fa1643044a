"""A proxy in front of an S3 server that spoils some requests, as a network and a busy server do.

By hand: ``python tests/s3/flaky.py http://127.0.0.1:9000`` prints its own URL and runs until it is ended.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}


class FlakyProxy(ThreadingHTTPServer):
    """Spoils each request with a probability of ``rate``, in one of the ways of ``FAULTS`` by chance."""

    daemon_threads = True

    def __init__(self, target: str, *, rate: float, seed: int, host: str, slow_seconds: float) -> None:
        super().__init__((host, 0), _Handler)
        parts = urlsplit(target)
        self.target = (parts.hostname or "", parts.port or 80)
        self.rate, self.slow_seconds = rate, slow_seconds
        self.requests = 0
        self.spoiled: Counter[str] = Counter()
        """How many requests were spoiled, by the way."""
        self._chance = random.Random(seed)
        self._lock = threading.Lock()

    def draw(self) -> str | None:
        """How to spoil this request, or None."""
        with self._lock:
            self.requests += 1
            if self._chance.random() >= self.rate:
                return None
            fault = self._chance.choice(sorted(FAULTS))
            self.spoiled[fault] += 1
            return fault

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FlakyProxy

    def any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.draw()
        if fault is None:
            self.reply(*self.forwarded(body))
        else:
            FAULTS[fault](self, body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = any  # noqa: N815

    def forwarded(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """What the server behind says. The Host header stays, since it is part of what was signed."""
        upstream = http.client.HTTPConnection(*self.server.target, timeout=60)
        with contextlib.closing(upstream):
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP_BY_HOP - {"content-length"}:
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            response = upstream.getresponse()
            return response.status, response.getheaders(), response.read()

    def reply(self, status: int, headers: list[tuple[str, str]], body: bytes, *, part: float = 1) -> None:
        """Answer; with ``part`` below 1 the connection breaks after that part of the body."""
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value  # that of the object; a HEAD has no body
            elif name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(body[: int(len(body) * part)])
        if part < 1:
            self.reset()

    def reset(self) -> None:
        """Break the connection, so that the other side sees ECONNRESET."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


def _reset(handler: _Handler, body: bytes) -> None:
    handler.reset()


def _lost_answer(handler: _Handler, body: bytes) -> None:
    """The server did what was asked, and nobody hears of it."""
    handler.forwarded(body)
    handler.reset()


def _cut(handler: _Handler, body: bytes) -> None:
    handler.reply(*handler.forwarded(body), part=0.5)


def _slow_down(handler: _Handler, body: bytes) -> None:
    handler.reply(503, [("Content-Type", "application/xml")], SLOW_DOWN)


def _slow(handler: _Handler, body: bytes) -> None:
    time.sleep(handler.server.slow_seconds)
    handler.reply(*handler.forwarded(body))


FAULTS: dict[str, Callable[[_Handler, bytes], None]] = {
    "reset": _reset,
    "lost answer": _lost_answer,
    "cut": _cut,
    "slow down": _slow_down,
    "slow": _slow,
}


@contextlib.contextmanager
def flaky(
    target: str, *, rate: float = 0.05, seed: int = 0, host: str = "127.0.0.1", slow_seconds: float = 2
) -> Iterator[tuple[str, FlakyProxy]]:
    """A running proxy and its URL.

    Args:
        host: the address to listen on.
    """
    with FlakyProxy(target, rate=rate, seed=seed, host=host, slow_seconds=slow_seconds) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://{host}:{proxy.server_address[1]}", proxy
        finally:
            proxy.shutdown()
            thread.join()


if __name__ == "__main__":
    with flaky(sys.argv[1]) as (address, _):
        print(address, flush=True)
        threading.Event().wait()
