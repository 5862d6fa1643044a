"""Chunks of rows over processes, with the results in the chunks' order."""

from __future__ import annotations

import itertools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

from compose_rl.config.data import TokenizeOptions
from compose_rl.data.encoding import load_tokenizer
from compose_rl.data.tokenizing import Chunk, RowTokenizer, TokenizedChunk

__all__ = ["tokenized"]

_AHEAD = 4
"""Chunks a worker may have waiting: enough to keep it busy, few enough to bound the memory."""
_FEW = 8
"""Up to so many chunks, starting processes takes longer than they save."""

_tokenize: Callable[[Chunk], TokenizedChunk]


def tokenized(
    chunks: Iterable[Chunk], tokenizer: str | Path, options: TokenizeOptions, rewards: bool, workers: int
) -> Iterator[TokenizedChunk]:
    """Tokenize chunks in ``workers`` processes (in this one if there is one worker or little to do).

    Args:
        tokenizer: folder or hub id that each process loads it from.

    Yields:
        Results in the order of ``chunks``: the same for any number of workers.
    """
    chunks = iter(chunks)
    head = list(itertools.islice(chunks, _FEW + 1))
    chunks = itertools.chain(head, chunks)
    if workers <= 1 or len(head) <= _FEW:
        yield from map(RowTokenizer(load_tokenizer(tokenizer), options, rewards), chunks)
        return
    # spawn: the parent may have threads (Arrow, tokenizers); a fork would leave their locks held.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start, (tokenizer, options, rewards))
    waiting: deque[Future[TokenizedChunk]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_work, chunk))
            if len(waiting) > workers * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(tokenizer: str | Path, options: TokenizeOptions, rewards: bool) -> None:
    global _tokenize
    _tokenize = RowTokenizer(load_tokenizer(tokenizer), options, rewards)


def _work(chunk: Chunk) -> TokenizedChunk:
    return _tokenize(chunk)
