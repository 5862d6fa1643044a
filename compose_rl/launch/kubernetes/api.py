# The kubernetes client comes without types, and only the control environment has it.
# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownMemberType=false
"""The Kubernetes API: objects are dictionaries, refusals are exceptions, a server that is away is waited for.

The client library finds the server and keeps the credentials fresh; requests go through its connection pool.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlencode

from compose_rl.launch.kubernetes import connection
from compose_rl.launch.kubernetes.patience import Closed, Outages, Patience
from compose_rl.launch.kubernetes.refusals import (
    AlreadyExists,
    Conflict,
    Expired,
    Forbidden,
    Invalid,
    NotFound,
    NotServed,
    Unauthorized,
    Unavailable,
    refusal,
)
from compose_rl.launch.kubernetes.resource import PODS, Object, Resource

__all__ = [
    "AlreadyExists",
    "Api",
    "Conflict",
    "Event",
    "Expired",
    "Forbidden",
    "Invalid",
    "NotFound",
    "NotServed",
    "Object",
    "Resource",
    "Unauthorized",
]

PATIENCE_SECONDS = 15 * 60.0
"""How long a server that is away is waited for."""
_CONNECT_SECONDS = 10.0
_READ_SECONDS = 60.0
_WATCH_SECONDS = 240
"""How long the server keeps a watch open."""
_SILENCE_SECONDS = 300.0
"""After this long without a byte a stream counts as broken."""


class Event(NamedTuple):
    """A line of a watch."""

    type: str
    """ADDED, MODIFIED, DELETED or BOOKMARK."""
    object: Object


@dataclass(frozen=True)
class _Request:
    verb: str
    """As RBAC calls it."""
    method: str
    resource: Resource
    name: str = ""
    namespace: str = ""
    """Empty: that of the :class:`Api`."""
    subresource: str = ""
    query: Mapping[str, str] | None = None
    body: Object | None = None
    content_type: str = "application/json"
    read_seconds: float = _READ_SECONDS


class Api:
    """One cluster, seen with one identity. Thread-safe.

    Every method may raise :class:`compose_rl.errors.UserError` (its subclasses in ``refusals.py`` where a
    caller acts on them) and :class:`compose_rl.errors.TransientError` when the server did not answer for the
    whole patience.
    """

    def __init__(self, client: Any, namespace: str, patience: Patience) -> None:
        self._client = client
        self.namespace = namespace
        self._patience = patience
        self._lock = threading.Lock()
        self._streams: set[Any] = set()

    @classmethod
    def connect(
        cls,
        context: str | None = None,
        namespace: str | None = None,
        *,
        patience: float = PATIENCE_SECONDS,
        say: connection.Say = connection.say,
    ) -> Api:
        """The cluster that this process runs in, else that of the kubeconfig.

        Args:
            context: of the kubeconfig; given, this process's own cluster is left aside.
            namespace: None: the pod's own, or that of the context.
            patience: seconds that a server that is away is waited for.
            say: takes a line about such a wait.
        """
        client, namespace = connection.connect(context, namespace)
        return cls(client, namespace, Patience(patience, Outages(say)))

    def fork(self, *, patience: float | None = None) -> Api:
        """The same connection, with streams of its own for :meth:`close`, and another patience in seconds."""
        old = self._patience
        return Api(
            self._client,
            self.namespace,
            Patience(old.seconds if patience is None else patience, old.outages),
        )

    @property
    def closed(self) -> threading.Event:
        """Set by :meth:`close`."""
        return self._patience.closed

    def close(self) -> None:
        """End this object's streams and waits, in whatever threads they are."""
        self.closed.set()
        with self._lock:
            for stream in self._streams:
                with contextlib.suppress(OSError, ValueError, RuntimeError):
                    stream.shutdown()

    def get(self, resource: Resource, name: str, *, namespace: str = "") -> Object:
        """The object, of another namespace where one is given; raises :class:`NotFound`."""
        return self._ask(_Request("get", "GET", resource, name, namespace=namespace))

    def list(
        self, resource: Resource, labels: str | None = None, *, fields: str | None = None
    ) -> tuple[list[Object], str]:
        """The objects that match, and the resource version from which to watch them.

        Args:
            labels: a label selector, ``app=x,tier!=y``.
            fields: a field selector, ``metadata.name=x``.
        """
        answer = self._ask(_Request("list", "GET", resource, query=_selectors(labels, fields)))
        found: list[Object] = answer.get("items") or []
        return found, str(answer["metadata"]["resourceVersion"])

    def create(self, resource: Resource, body: Object) -> Object:
        """The object as created; raises :class:`AlreadyExists`, also where a lost answer had created it."""
        return self._ask(_Request("create", "POST", resource, body=body))

    def replace(self, resource: Resource, body: Object) -> Object:
        """Replace the object; raises :class:`Conflict` when it is not the ``resourceVersion`` of ``body``."""
        return self._ask(_Request("update", "PUT", resource, body["metadata"]["name"], body=body))

    def patch(self, resource: Resource, name: str, body: Object) -> Object:
        """Merge ``body`` (JSON merge patch); a ``resourceVersion`` inside makes it conditional."""
        kind = "application/merge-patch+json"
        return self._ask(_Request("patch", "PATCH", resource, name, body=body, content_type=kind))

    def delete(
        self, resource: Resource, name: str, *, propagation: str = "Background", uid: str | None = None
    ) -> None:
        """Delete the object; raises :class:`NotFound`, or :class:`Conflict` when another has its name.

        Args:
            propagation: ``Background``, ``Foreground`` or ``Orphan``: what becomes of its dependents.
            uid: of the very object that is meant.
        """
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if uid:
            body["preconditions"] = {"uid": uid}
        self._ask(_Request("delete", "DELETE", resource, name, body=body))

    def watch(
        self,
        resource: Resource,
        resource_version: str,
        labels: str | None = None,
        *,
        fields: str | None = None,
    ) -> Iterator[Event]:
        """Changes since ``resource_version``, until the server or a broken connection ends the watch.

        Raises:
            Expired: the server does not remember that version; list again.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(_WATCH_SECONDS),
            **_selectors(labels, fields),
        }
        request = _Request("watch", "GET", resource, query=query, read_seconds=_SILENCE_SECONDS)
        for line in self._lines(lambda: self._patience.call(lambda: self._open(request), _told(request))):
            event = json.loads(line)
            if event["type"] == "ERROR":
                status: Object = event["object"]
                code = int(status.get("code") or 500)
                error = refusal(code, status, verb="watch", resource=resource, namespace=self.namespace)
                if isinstance(error, Unavailable):
                    return
                raise error
            yield Event(event["type"], event["object"])

    def log(
        self,
        pod: str,
        container: str,
        *,
        follow: bool = False,
        tail_lines: int | None = None,
        since_time: str | None = None,
    ) -> Iterator[str]:
        """A container's log, line by line, each starting with its time stamp and a space.

        A broken connection ends it. Waits for nobody.

        Args:
            follow: go on until the container ends.
            tail_lines: from that many lines before the end only.
            since_time: from that second on (RFC 3339).

        Raises:
            NotFound: the pod is gone.
            Invalid: the container has not started yet.
            Unavailable: the server or the pod's node does not answer.
        """
        query = {"container": container, "timestamps": "true", "follow": str(follow).lower()}
        if tail_lines is not None:
            query["tailLines"] = str(tail_lines)
        if since_time is not None:
            query["sinceTime"] = since_time
        seconds = _SILENCE_SECONDS if follow else _READ_SECONDS
        request = _Request("get", "GET", PODS, pod, subresource="log", query=query, read_seconds=seconds)
        return self._lines(lambda: self._open(request))

    def about(self, path: str) -> Object | None:
        """What the server says of itself at a path such as ``/version``; None where there is nothing."""
        request = _Request("get", "GET", Resource("", "v1", path, namespaced=False))

        def attempt() -> Object | None:
            timeouts = (_CONNECT_SECONDS, _READ_SECONDS)
            kind = request.content_type
            answer = connection.send(self._client, "GET", path, content_type=kind, timeouts=timeouts)
            with connection.translated(self._client):
                data = answer.data
            if answer.status == 404:
                return None
            if answer.status != 200:
                raise refusal(answer.status, data, verb="get", resource=request.resource)
            return connection.parsed(self._client, data)

        return self._patience.call(attempt, _told(request))

    def _ask(self, request: _Request) -> Object:
        def attempt() -> Object:
            response = self._open(request)
            with connection.translated(self._client):
                return connection.parsed(self._client, response.data)

        return self._patience.call(attempt, _told(request))

    def _open(self, request: _Request) -> Any:
        """The answer to a request, its body unread; raises what the answer says when it is no success."""
        namespace = request.namespace or self.namespace
        path = request.resource.path(namespace, request.name, request.subresource)
        response = connection.send(
            self._client,
            request.method,
            path + (f"?{urlencode(request.query)}" if request.query else ""),
            body=None if request.body is None else json.dumps(request.body).encode(),
            content_type=request.content_type,
            timeouts=(_CONNECT_SECONDS, request.read_seconds),
        )
        if 200 <= response.status < 300:
            return response
        with connection.translated(self._client):
            body = response.data
        raise refusal(
            response.status,
            body,
            verb=request.verb,
            resource=request.resource,
            name=request.name,
            namespace=namespace,
            retry_after=connection.retry_after(response),
        )

    def _lines(self, opened: Callable[[], Any]) -> Generator[str]:
        """The lines of a streamed answer; a broken connection ends them."""
        try:
            response = opened()
        except Closed:
            return
        with self._lock:
            self._streams.add(response)
        try:
            if not self.closed.is_set():
                yield from connection.lines(response, self._patience.outages.stream_broke)
        finally:
            with self._lock:
                self._streams.discard(response)
            response.close()


def _selectors(labels: str | None, fields: str | None) -> dict[str, str]:
    given = {"labelSelector": labels, "fieldSelector": fields}
    return {key: value for key, value in given.items() if value}


def _told(request: _Request) -> str:
    return f"{request.verb} {request.resource.full_name} {request.name}"
