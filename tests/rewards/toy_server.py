"""A server that answers as a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Toy:
    """Its address, and what it was asked: path, headers, document."""

    url: str = ""
    asked: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)


Answer = Callable[[int, Any], tuple[int, Any]]
"""(number of the request, its document) -> (status, document; text is sent as it is)."""


@contextmanager
def serving(answer: Answer) -> Iterator[Toy]:
    toy = Toy()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                toy.asked.append((self.path, dict(self.headers), document))
                number = len(toy.asked)
            status, reply = answer(number, document)
            body = (reply if isinstance(reply, str) else json.dumps(reply)).encode()
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    # Who was too slow finds nobody there.
    server.handle_error = lambda *_: None
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    toy.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield toy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
