"""What a KFP server may answer, over real HTTP, becomes one line."""

import argparse
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kfp")

from compose_rl.errors import TransientError, UserError
from pipelines.server import add_connection, connect

REWARD_MODEL = Path(__file__).parents[2] / "pipelines/reward_model.py"
Serve = Callable[[int, bytes], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server that answers everything alike; gives its address."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append((self.headers.get("Authorization"), self.headers.get("Cookie")))
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


seen: list[tuple[str | None, str | None]] = []
"""The credentials of the requests."""


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_connection(parser)
    # With a namespace, the client asks for no user of its own.
    return parser.parse_args(["--namespace", "me", *arguments])


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (401, b"{}", UserError, "not logged in; give --token-file"),
        (403, b"{}", UserError, "not allowed; check --namespace"),
        (404, b"no such page", UserError, "no Kubeflow Pipelines 2 API there; check --host"),
        (400, b'{"error": "bad\\n filter", "details": []}', UserError, "refuses (400)"),
        (503, b"down", TransientError, "error 503: down; try again"),
    ],
)
def test_refusals_are_one_line(
    serve: Serve, status: int, body: bytes, kind: type[Exception], words: str
) -> None:
    host = serve(status, body)
    with pytest.raises(kind) as caught:
        connect(options("--host", host))
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"KFP at {host}")
    assert "\n" not in str(caught.value)


def test_a_server_that_is_not_there_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(TransientError, match=f"no answer from KFP at {host}: .*; check --host"):
            connect(options("--host", host))


def test_credentials_come_from_files(serve: Serve, tmp_path: Path) -> None:
    host = serve(200, b"{}")
    (tmp_path / "token").write_text("t0ken")
    (tmp_path / "cookies").write_text("session=1\n")
    seen.clear()
    connect(options("--host", host, "--token-file", str(tmp_path / "token")))
    connect(options("--host", host, "--cookies-file", str(tmp_path / "cookies")))
    assert seen == [("Bearer t0ken", None), (None, "session=1")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no address of a KFP server"),
        (["--host", "localhost:8888"], "--host=localhost:8888: no address"),
        (["--host", "http://x", "--token-file", "/nowhere"], "--token-file /nowhere: no such file"),
    ],
)
def test_bad_connections_are_named_before_anything_is_asked(arguments: list[str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        connect(options(*arguments))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--storage", "store"], "storage='store': a cluster cannot see it"),
        ([], "storage missing; give -p storage="),
        (["--storage", "s3://b/s", "-p", "gpus=2", "-p", "resources=reward_model: {cpu: x}"], "cpu='x'"),
    ],
)
def test_a_run_is_checked_before_the_server_is_asked(arguments: list[str], words: str) -> None:
    given = ["-p", "base_model=m", "-p", "preferences=p", "--host", "http://127.0.0.1:9"]
    done = subprocess.run(
        [sys.executable, str(REWARD_MODEL), "--submit", *given, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
