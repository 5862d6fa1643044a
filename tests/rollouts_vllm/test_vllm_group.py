"""Several servers with vLLM, and one server of several processes: a part that dies is brought back."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import psutil
from vllm_models import END, LONG, REQUESTS, SAMPLING, gaps_to, weights_of

from compose_rl.rollouts.client import ServerGenerator
from compose_rl.rollouts.connection import Connection
from compose_rl.rollouts.types import Completion, Request, Sampling


def tokens(groups: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[answer.tokens for answer in group] for group in groups]


def same(found: list[list[Completion]], expected: list[list[Completion]]) -> float:
    """Share of answers that are the same: rounding, which depends on the batch, may turn one token."""
    pairs = [
        pair
        for groups in zip(tokens(found), tokens(expected), strict=True)
        for pair in zip(*groups, strict=True)
    ]
    return sum(one == other for one, other in pairs) / len(pairs)


def answered(generator: ServerGenerator, index: int) -> int:
    return Connection(generator._servers.url(index), 30).health()["answered"]


def test_two_servers_share_the_work_and_one_does_it_all_while_the_other_is_gone(
    start: Any, generator: ServerGenerator, models: list[Any]
) -> None:
    """Without a prefix cache they answer as the one server does that has one."""
    many = [Request((*LONG.prompt, 5 + n), tuple(range(8 * n, 8 * n + 8))) for n in range(32)]
    sampling = Sampling(max_new_tokens=96, temperature=0.7, stop=(END,))
    generator.push(weights_of(models[1]), 11)
    expected = generator.generate(many, sampling)
    two = start(models[0], servers=2, prefix_caching=False)
    two.push(weights_of(models[1]), 1)
    before = [answered(two, index) for index in (0, 1)]
    assert same(two.generate(many, sampling), expected) > 0.98
    assert all(answered(two, index) > before[index] for index in (0, 1))
    pid = two._servers._started[1].process.pid
    results: list[Any] = []
    asking = threading.Thread(target=lambda: results.append(two.generate(many, sampling)))
    asking.start()
    time.sleep(0.3)
    assert asking.is_alive(), "the generation ended before it was disturbed"
    os.kill(pid, signal.SIGKILL)
    asking.join(300)
    assert same(results[0], expected) > 0.98
    two.push(weights_of(models[0]), 2)
    assert two._servers._started[1].process.pid != pid
    assert max(gaps_to(models[0], REQUESTS, two.generate(REQUESTS, SAMPLING), 0.7)) < 1e-3


def kill_a_worker(engine: ServerGenerator) -> list[psutil.Process]:
    """Kill one of the two processes that the model is in; both of them."""
    server = psutil.Process(engine._servers._started[0].process.pid)
    workers = [child for child in server.children(recursive=True) if "Worker" in " ".join(child.cmdline())]
    assert len(workers) == 2
    workers[1].kill()
    return [server, *workers]


def test_a_model_in_two_processes_comes_back_when_one_of_them_dies(start: Any, models: list[Any]) -> None:
    engine = start(models[0], tensor_parallel_size=2)
    engine.push(weights_of(models[1]), 1)
    before = engine.generate(REQUESTS, SAMPLING)
    assert max(gaps_to(models[1], REQUESTS, before, 0.7)) < 1e-3
    gone = kill_a_worker(engine)
    assert tokens(engine.generate(REQUESTS, SAMPLING)) == tokens(before)
    gone += kill_a_worker(engine)
    engine.push(weights_of(models[0]), 2)
    assert max(gaps_to(models[0], REQUESTS, engine.generate(REQUESTS, SAMPLING), 0.7)) < 1e-3
    _, left = psutil.wait_procs(gone, timeout=20)
    assert not left
