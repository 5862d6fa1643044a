"""Functions that judge answers, in processes of their own with a time limit: one that hangs is ended.

A process is started once, receives how its rewards are made, and then one answer after the other. It is
started again only after it was ended or died.
"""

from __future__ import annotations

import multiprocessing
import queue
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection

from compose_rl.errors import UserError
from compose_rl.rewards.types import Failed, RewardedSample, Score
from compose_rl.rewards.worker import Recipe

__all__ = ["RewardPool"]

_START = 120.0
"""Seconds that a worker has to import what its rewards need."""


class RewardPool:
    """``workers`` processes that all hold the same rewards."""

    def __init__(self, recipes: Mapping[str, Recipe], timeout: float, workers: int) -> None:
        """Start the processes.

        Args:
            timeout: seconds that a reward has for an answer.

        Raises:
            UserError: a reward cannot be made.
        """
        self._timeout = timeout
        self._all = [_Worker(recipes, timeout) for _ in range(workers)]
        self._threads = ThreadPoolExecutor(workers, "rewards")
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._all:
            self._idle.put(worker)
        try:
            list(self._threads.map(_Worker.start, self._all))
        except BaseException:
            self.close()
            raise

    def submit(self, name: str, samples: Sequence[RewardedSample]) -> list[Future[Score]]:
        """Let the reward ``name`` judge each of ``samples``: a score, or :class:`Failed`."""
        return [self._threads.submit(self._judge, name, sample) for sample in samples]

    def _judge(self, name: str, sample: RewardedSample) -> Score:
        worker = self._idle.get()
        try:
            return worker.judge(name, sample)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End all processes, also those at work."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._all:
            worker.end()
        self._threads.shutdown()


class _Worker:
    """The other end of a :mod:`compose_rl.rewards.worker`."""

    def __init__(self, recipes: Mapping[str, Recipe], timeout: float) -> None:
        self._recipes = recipes
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def start(self) -> None:
        """Raises UserError where the process cannot make its rewards."""
        self._connection, far = multiprocessing.Pipe()
        with far:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "compose_rl.rewards.worker", str(far.fileno())],
                pass_fds=[far.fileno()],
                # An interrupt from the terminal is for the trainer, which then ends this process.
                start_new_session=True,
            )
        self._connection.send((sys.path, self._recipes, self._timeout))
        try:
            answer = self._connection.recv() if self._connection.poll(_START) else Failed("it did not start")
        except (EOFError, OSError):
            answer = Failed(f"its process ended with code {self._process.wait()} at its start")
        if isinstance(answer, Failed):
            self.end()
            raise UserError(f"rewards: {answer.reason}; mend it, or leave the reward out")

    def judge(self, name: str, sample: RewardedSample) -> Score:
        if self._process is None:
            self.start()
        assert self._connection is not None and self._process is not None
        try:
            self._connection.send((name, sample))
            if self._connection.poll(self._timeout):
                score: Score = self._connection.recv()
                return score
            reason = f"took longer than reward_timeout={self._timeout:g} s and was ended"
        except (EOFError, OSError):
            reason = f"its process died with code {self._process.wait()}"
        self.end()
        return Failed(reason)

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
