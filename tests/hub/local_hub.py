"""A Hugging Face hub on this machine: as much of its HTTP interface as downloads of models and datasets need.

Repositories are folders ``<root>/models/<owner>/<name>`` and ``<root>/datasets/<owner>/<name>``; each has
one commit.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_API = re.compile(r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)(?P<rest>/.*)?")
_RESOLVE = re.compile(r"/(?P<data>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


@contextmanager
def local_hub(root: Path) -> Iterator[str]:
    """Serve the repositories below ``root``; yields the address for ``HF_ENDPOINT``."""
    handler = type("Handler", (_Handler,), {"root": root})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def commit_of(repository: Path) -> str:
    """The commit of a repository: changes with its content."""
    content = hashlib.sha1()
    for path in _paths(repository):
        content.update(path.encode() + b"\0" + (repository / path).read_bytes())
    return content.hexdigest()


def _paths(repository: Path) -> list[str]:
    return sorted(str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file())


class _Handler(BaseHTTPRequestHandler):
    root: Path
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if api := _API.fullmatch(path):
            self._api(api["kind"], api["name"], api["rest"] or "")
        elif resolve := _RESOLVE.fullmatch(path):
            self._file("datasets" if resolve["data"] else "models", resolve)
        else:
            self._missing("EntryNotFound")

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        api = _API.fullmatch(unquote(urlsplit(self.path).path))
        if api is None or not (api["rest"] or "").startswith("/paths-info/"):
            self._missing("EntryNotFound")
            return
        repository = self._repository(api["kind"], api["name"])
        if repository is not None:
            found = [self._entry(repository, path) for path in body["paths"] if (repository / path).exists()]
            self._json(found)

    def _api(self, kind: str, name: str, rest: str) -> None:
        repository = self._repository(kind, name)
        if repository is None:
            return
        part, _, tail = rest.removeprefix("/").partition("/")
        revision, _, folder = tail.partition("/")
        if part in ("revision", "tree") and revision not in ("main", commit_of(repository)):
            self._missing("RevisionNotFound")
        elif part == "tree":
            self._tree(repository, folder)
        else:
            siblings = [{"rfilename": path} for path in _paths(repository)]
            self._json({"id": name, "sha": commit_of(repository), "private": False, "siblings": siblings})

    def _tree(self, repository: Path, folder: str) -> None:
        top = repository / folder
        if not top.is_dir():
            self._missing("EntryNotFound")
            return
        recursive = "recursive=true" in urlsplit(self.path).query.lower()
        found = sorted(top.rglob("*") if recursive else top.iterdir())
        self._json([self._entry(repository, str(path.relative_to(repository))) for path in found])

    def _entry(self, repository: Path, path: str) -> dict[str, Any]:
        file = repository / path
        if file.is_dir():
            return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest()}
        return {
            "type": "file",
            "path": path,
            "size": file.stat().st_size,
            "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
        }

    def _file(self, kind: str, match: re.Match[str]) -> None:
        repository = self._repository(kind, match["name"])
        if repository is None:
            return
        commit, file = commit_of(repository), repository / match["path"]
        if match["revision"] not in ("main", commit):
            self._missing("RevisionNotFound")
        elif not file.is_file():
            self._missing("EntryNotFound", commit)
        else:
            data = file.read_bytes()
            tag = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": commit}
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked:
                first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
                tag["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
                self._send(206, data[first : last + 1], tag)
            else:
                self._send(200, data, tag)

    def _repository(self, kind: str, name: str) -> Path | None:
        repository = self.root / kind / name
        if repository.is_dir():
            return repository
        self._missing("RepoNotFound")
        return None

    def _missing(self, code: str, commit: str = "") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": code}
        self._send(404, b"{}", headers | ({"X-Repo-Commit": commit} if commit else {}))

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass
