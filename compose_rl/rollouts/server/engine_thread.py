"""vLLM's engine in a thread of its own.

All that is asked of it happens in that thread, between two of its steps: OpenMP's threads belong to the
thread that first used them, and the engine is not made for several callers.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

from compose_rl.errors import EXIT_BUG

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams
    from vllm.v1.engine.llm_engine import LLMEngine

__all__ = ["EngineThread"]

T = TypeVar("T")


class EngineThread:
    """Runs the engine as long as there is something to generate.

    Args:
        build: makes the engine; what it raises is raised here.
    """

    def __init__(self, build: Callable[[], LLMEngine]) -> None:
        self._calls: queue.SimpleQueue[Callable[[LLMEngine], None] | None] = queue.SimpleQueue()
        self._answers: dict[str, Future[RequestOutput]] = {}
        self._numbers = itertools.count()
        self.answered = 0
        """Answers written so far."""
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(build, started), name="engine", daemon=True)
        self._thread.start()
        started.result()

    def call(self, function: Callable[[LLMEngine], T]) -> T:
        """What ``function`` gives for the engine, or raises; called between two steps."""
        future: Future[T] = Future()

        def run(engine: LLMEngine) -> None:
            try:
                future.set_result(function(engine))
            except BaseException as problem:
                future.set_exception(problem)

        self._calls.put(run)
        return future.result()

    def generate(self, asked: Sequence[tuple[list[int], SamplingParams]]) -> list[RequestOutput]:
        """Answers in order; several threads' requests are generated together."""
        futures = self.call(lambda engine: [self._add(engine, *one) for one in asked])
        return [future.result() for future in futures]

    def close(self) -> None:
        """End the thread when it has done what it was asked before."""
        self._calls.put(None)
        self._thread.join()

    def _add(self, engine: LLMEngine, prompt: list[int], params: SamplingParams) -> Future[RequestOutput]:
        name = str(next(self._numbers))
        engine.add_request(name, {"prompt_token_ids": prompt}, params)
        self._answers[name] = Future()
        return self._answers[name]

    def _run(self, build: Callable[[], LLMEngine], started: Future[None]) -> None:
        try:
            engine = build()
        except BaseException as problem:
            started.set_exception(problem)
            return
        started.set_result(None)
        try:
            self._serve(engine)
        except BaseException:
            # The engine cannot go on after a step that failed: whoever watches this process starts another.
            traceback.print_exc()
            os._exit(EXIT_BUG)

    def _serve(self, engine: LLMEngine) -> None:
        while True:
            while not engine.has_unfinished_requests() or not self._calls.empty():
                call = self._calls.get()
                if call is None:
                    return
                call(engine)
            for output in engine.step():
                if output.finished:
                    self.answered += 1
                    self._answers.pop(output.request_id).set_result(output)
