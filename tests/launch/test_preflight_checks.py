"""The checks of preflight that need no cluster, against servers of this test's own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from compose_rl.errors import TransientError, UserError
from compose_rl.launch.kubernetes.refusals import Forbidden
from compose_rl.launch.preflight import pipelines, storage
from compose_rl.launch.preflight.finding import Check, Unclear, Verdict, finding

Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server that gives one answer to everything; its URL."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int = 200, body: str = "", date: datetime | None = None) -> str:
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response_only(status)
                if date is not None:
                    self.send_header("Date", format_datetime(date, usegmt=True))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body.encode())

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def verdicts(checks: Iterator[Check]) -> dict[str, tuple[Verdict, str]]:
    return {found.what: (found.verdict, found.said) for found in map(finding, checks)}


@pytest.mark.parametrize(
    "error, verdict",
    [
        (UserError("x"), Verdict.NO),
        (TransientError("x"), Verdict.NO),
        (Forbidden("x"), Verdict.UNCLEAR),
        (Unclear("x"), Verdict.UNCLEAR),
    ],
)
def test_what_may_not_be_looked_at_is_no_fault(error: Exception, verdict: Verdict):
    def look() -> str:
        raise error

    found = finding(Check("a", look))
    assert (found.verdict, found.said) == (verdict, "x")


@pytest.mark.parametrize("status", [200, 403])
def test_a_clock_that_agrees_is_fine_also_where_the_server_refuses(status: int, serve: Serve):
    assert storage.clock(serve(status, date=datetime.now(UTC))).startswith("within ")


@pytest.mark.parametrize("minutes", [-60, 60])
def test_a_clock_that_is_off_is_named_with_the_remedy(minutes: int, serve: Serve):
    url = serve(date=datetime.now(UTC) + timedelta(minutes=minutes))
    with pytest.raises(UserError, match=rf"{url}: its clock and this machine's differ by 3[56]\d\d s.*NTP"):
        storage.clock(url)


def test_a_server_that_says_no_time_is_unclear(serve: Serve):
    with pytest.raises(Unclear, match="does not say its time"):
        storage.clock(serve())
    with pytest.raises(Unclear):
        storage.clock("http://127.0.0.1:1")


def test_a_folder_as_storage_is_written_read_and_left_empty(tmp_path: Path):
    found = verdicts(storage.checks(str(tmp_path)))
    assert {verdict for verdict, _ in found.values()} == {Verdict.OK}
    assert set(found) == {"storage", "storage: manifests"}
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_storage_that_cannot_be_written_is_a_no():
    found = verdicts(storage.checks("/proc/none"))
    assert found["storage"][0] == Verdict.NO


def healthz(version: str) -> str:
    return json.dumps({"commit_sha": "unknown", "tag_name": version, "multi_user": False})


@pytest.mark.parametrize(
    "status, body, verdict, said",
    [
        (200, healthz("2.17.0"), Verdict.OK, "version 2.17.0 at http://"),
        (200, healthz("v2.13.1"), Verdict.OK, "version v2.13.1"),
        (200, healthz("2.5.0"), Verdict.NO, "has version 2.5.0; 2.13 or newer is needed: update it"),
        (200, healthz("unknown"), Verdict.UNCLEAR, "does not say its version"),
        (200, "<html>log in</html>", Verdict.UNCLEAR, "answers with a page, as a login does"),
        (401, "", Verdict.UNCLEAR, "asks for a login (HTTP 401)"),
        (404, "", Verdict.NO, "HTTP 404; give --host the address of its UI"),
    ],
)
def test_what_pipelines_say_of_themselves(status: int, body: str, verdict: Verdict, said: str, serve: Serve):
    found = verdicts(pipelines.checks(f"{serve(status, body)}/"))["Kubeflow Pipelines"]
    assert found[0] == verdict and said in found[1]


def test_pipelines_that_do_not_answer_are_a_no():
    found = verdicts(pipelines.checks("http://127.0.0.1:1"))["Kubeflow Pipelines"]
    assert found[0] == Verdict.NO and "Connection refused; give --host" in found[1]
    found = verdicts(pipelines.checks("kubeflow"))["Kubeflow Pipelines"]
    assert found[0] == Verdict.NO and "give --host" in found[1]
