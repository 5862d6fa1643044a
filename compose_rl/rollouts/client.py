"""Generation by servers: work spread over them, answers checked, a lost server brought back."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from compose_rl.errors import TransientError, UserError
from compose_rl.rollouts.checking import check_completions
from compose_rl.rollouts.connection import Connection, ServerLost
from compose_rl.rollouts.fleet import FAILURES, Fleet
from compose_rl.rollouts.messages import Asked
from compose_rl.rollouts.places import GivenServers, Servers
from compose_rl.rollouts.requests import check_requests
from compose_rl.rollouts.shipping import Shipment, cast
from compose_rl.rollouts.telling import Telling
from compose_rl.rollouts.types import Completion, Pushed, Request, Sampling
from compose_rl.rollouts.versions import check_sync
from compose_rl.rollouts.work import Work, split

__all__ = ["ServerGenerator"]


class ServerGenerator:
    """Generates with servers (docs/architecture.md, "Online RL").

    Args:
        servers: addresses, or who starts them.
        start_timeout: seconds that a server at a given address has to come (back).
        request_timeout: seconds that a server has for a request.
        sleeps: servers free their GPU after each generation.
        sync: how weights get to servers (``engine.sync``).
        say: is told what happens to servers.
    """

    shared = True

    def __init__(
        self,
        servers: Sequence[str] | Servers,
        *,
        start_timeout: float = 600.0,
        request_timeout: float = 600.0,
        sleeps: bool = False,
        sync: str = "file",
        say: Callable[[str], None] = lambda message: None,
    ) -> None:
        if isinstance(servers, Sequence):
            servers = GivenServers(servers, start_timeout)
        if not servers.count:
            raise UserError("engine: no servers; set engine.urls or engine.servers")
        self.version = 0
        self._servers: Servers = servers
        self._fleet = Fleet(servers, request_timeout, say)
        self._sleeps = sleeps
        self._sync = sync
        self._say = say
        self._shipment: Shipment | None = None
        self._locks = [threading.Lock() for _ in range(servers.count)]
        self._turn = threading.Lock()
        """Pushing and generating do not overlap."""
        atexit.register(self.close)

    def push(self, weights: Iterable[tuple[str, Tensor]], version: int) -> Pushed:
        """Hand weights to all servers; they are kept until the next, for a server that is started again.

        Raises:
            UserError: a server refuses them.
            TransientError: no server could be reached.
        """
        with self._turn:
            start = time.monotonic()
            self._servers.forgive()
            _, health = self._fleet.each(self._fleet.reach)[0]
            check_sync(self._sync, health.get("versions") or {})
            dtype = getattr(torch, str(health.get("dtype")), None)
            shipment = Shipment(cast(weights, dtype), version)
            if self._shipment is not None:
                self._shipment.close()
            self._shipment, self.version = shipment, version
            self._fleet.each(self._ready)
            return Pushed(bytes=shipment.bytes, seconds=time.monotonic() - start)

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        done: Callable[[int], None] = lambda count: None,
    ) -> list[list[Completion]]:
        """See :class:`compose_rl.rollouts.types.Generator`."""
        if not requests:
            return []
        with self._turn:
            _, health = self._fleet.each(self._fleet.reach)[0]
            check_requests(requests, sampling, health["vocab_size"], health["max_length"])
            parallel = max(1, int(health.get("parallel", 1)))
            slots = self._servers.count * parallel
            # Several parts each, so that a slow server gets fewer of them; one server has all at once.
            parts = split(requests, slots if self._servers.count == 1 else 2 * slots)
            completions = self._run(Work(parts), parts, parallel, requests, sampling, done)
            if self._sleeps:
                self.sleep()
            return completions

    def sleep(self) -> None:
        """Free the servers' accelerators; generating and pushing wake them."""
        self._fleet.each(lambda index: self._fleet.reach(index)[0].sleep())

    def wake(self) -> None:
        self._fleet.each(lambda index: self._fleet.reach(index)[0].wake())

    def close(self) -> None:
        """End the servers that were started here and remove the weights that are kept."""
        atexit.unregister(self.close)
        self._servers.close()
        if self._shipment is not None:
            self._shipment.close()
            self._shipment = None

    def _run(
        self,
        work: Work,
        parts: Sequence[range],
        parallel: int,
        requests: Sequence[Request],
        sampling: Sampling,
        done: Callable[[int], None],
    ) -> list[list[Completion]]:
        telling = Telling(done, sum(len(request.seeds) for request in requests))
        for index in [*range(self._servers.count)] * parallel:
            work.begin_worker()
            arguments = (index, work, requests, sampling, telling)
            threading.Thread(target=self._serve, args=arguments, name=f"server-{index}", daemon=True).start()
        threading.Thread(target=telling.watch, args=(work,), name="telling", daemon=True).start()
        known = 0
        while not work.over:
            known = work.wait_for_news(known)
            telling.up_to(sum(len(group) for result in list(work.results.values()) for group in result))
        if work.failure is not None:
            raise work.failure
        return [group for part in parts for group in work.results[part.start]]

    def _serve(
        self, index: int, work: Work, requests: Sequence[Request], sampling: Sampling, telling: Telling
    ) -> None:
        """Have server ``index`` do parts of the work until none is left, or it is lost for good."""
        failures = 0
        last: Exception | None = None
        while failures <= FAILURES and (part := work.take()) is not None:
            url = None
            try:
                server, health = self._ready(index, lambda: work.over)
                url = server.url
                telling.begins(url, health)
                asked = Asked(requests=list(requests[part.start : part.stop]), sampling=sampling)
                answers = server.generate(asked)
                if answers.version != self.version:
                    raise ServerLost(f"{url}: answered with weights {answers.version}, not {self.version}")
                vocab_size = health["vocab_size"]
                check_completions(answers.completions, asked.requests, sampling, vocab_size, self.version)
                work.finish(part, answers.completions)
            except ServerLost as error:
                self._say(f"rollout server {index} is lost ({error}); its part is done again")
                failures, last = failures + 1, TransientError(f"rollout server {index}: {error}")
                if url is not None:
                    telling.lost(url)
                    self._servers.lost(index, url)
                work.give_back(part)
            except TransientError as error:
                last = error
                work.give_back(part)
                break
            except BaseException as error:
                work.fail(error)
                break
        work.end_worker(last)

    def _ready(
        self, index: int, over: Callable[[], bool] = lambda: False
    ) -> tuple[Connection, dict[str, Any]]:
        """The server with the newest weights in it.

        Raises:
            ServerLost: it was lost while the weights were on their way.
        """
        with self._locks[index]:
            server, health = self._fleet.reach(index, over)
            if health["version"] != self.version:
                if self._shipment is None:
                    raise UserError(
                        f"rollout server {server.url}: has weights {health['version']}, and none were pushed;"
                        " push weights first, or restart the server"
                    )
                try:
                    self._shipment.deliver(server)
                except ServerLost:
                    # It may have taken a part of them.
                    self._servers.lost(index, server.url)
                    raise
            return server, health
