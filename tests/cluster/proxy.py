"""A TCP proxy in front of the API server, so that a connection can break at any time."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from types import TracebackType

import yaml


def kubeconfig_through(proxy: Proxy, direct: Path, folder: Path) -> Path:
    """A kubeconfig that leads through the proxy."""
    document = yaml.safe_load(direct.read_text())
    document["clusters"][0]["cluster"] |= {
        "server": f"https://127.0.0.1:{proxy.port}",
        "tls-server-name": "kubernetes.default.svc",
    }
    path = folder / "through-proxy"
    path.write_text(yaml.safe_dump(document))
    return path


class Proxy:
    """Passes bytes on. ``down`` breaks what is open and refuses the rest until ``up``."""

    def __init__(self, address: str, port: int) -> None:
        self._target = (address, port)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self.swallow = False
        """Break the next connection that brings an answer, instead of passing the answer on."""

    def up(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def down(self) -> None:
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.break_connections()

    def break_connections(self) -> None:
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Proxy:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._target, timeout=10)
                far.settimeout(None)
                self._open |= {near, far}
                threading.Thread(target=self._pass, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._pass, args=(far, near, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if answers and self.swallow:
                    self.swallow = False
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            self._open.discard(end)
