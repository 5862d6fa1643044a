"""What the pods of a job print: rank 0 as it comes, another when it has failed."""

from __future__ import annotations

from collections.abc import Callable

from compose_rl.launch.kubernetes import podview
from compose_rl.launch.kubernetes.api import Api, Object
from compose_rl.launch.kubernetes.jobkind import JobKind
from compose_rl.launch.kubernetes.logs import TAIL_LINES, LogStream
from compose_rl.launch.kubernetes.reasons import pod_cause, terminated

__all__ = ["Output"]

_REST_SECONDS = 20.0
"""How long the rest of a log is waited for."""
_HANGING_SECONDS = 1.0
"""The same, of a pod that has not ended."""


class Output:
    """The logs of a job's pods.

    Args:
        tail_lines: start that many lines before the end of rank 0's log; None: at its beginning.
    """

    def __init__(
        self, api: Api, kind: JobKind, out: Callable[[str], None], *, tail_lines: int | None = None
    ) -> None:
        self._api, self._kind, self._out, self._tail_lines = api, kind, out, tail_lines
        self._streams: dict[str, LogStream] = {}
        """By the pod's uid."""
        self._shown: LogStream | None = None
        """Rank 0's."""

    def pod_seen(self, pod: Object) -> None:
        """Follow rank 0 once its container has started. Of another, keep what it said when it fails.

        At once: an operator that ends a job takes failed pods away with the others.
        """
        uid, ended = podview.uid(pod), terminated(pod, self._kind.container) is not None
        if ended and uid in self._streams:
            self._streams[uid].container_ended()
        if uid in self._streams:
            return
        if self._kind.rank_zero(pod):
            mine = [each for each in podview.containers(pod) if each["name"] == self._kind.container]
            if ended or any(podview.state(each, "running") is not None for each in mine):
                self.finish()
                self._shown = self._start(pod, self._out, self._tail_lines)
                self._tail_lines = None
        elif ended and pod_cause(pod, self._kind.container) is not None:
            self._start(pod, _ignored, TAIL_LINES)

    def finish(self, *, over: bool = False) -> None:
        """Show the rest of rank 0's log.

        Args:
            over: the job has ended, so the log has an end.
        """
        if self._shown is not None:
            if over:
                self._shown.container_ended()
            self._shown.join(_REST_SECONDS if self._shown.ending else _HANGING_SECONDS)

    def last_lines(self, uid: str) -> list[str]:
        """What a pod printed last; shown now if it was not shown yet."""
        stream = self._streams.get(uid)
        if stream is None:
            return []
        if stream is not self._shown:
            stream.join(_REST_SECONDS)
            for line in stream.last:
                self._out(f"[{stream.pod}] {line}")
        return list(stream.last)

    def _start(self, pod: Object, out: Callable[[str], None], tail_lines: int | None) -> LogStream:
        stream = LogStream(self._api, podview.name(pod), self._kind.container, out, tail_lines=tail_lines)
        if terminated(pod, self._kind.container) is not None:
            stream.container_ended()
        self._streams[podview.uid(pod)] = stream
        stream.start()
        return stream


def _ignored(line: str) -> None:
    pass
