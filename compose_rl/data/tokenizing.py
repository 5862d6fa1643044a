"""From raw rows to the samples that go into shards: the core of the ``tokenize`` stage."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compose_rl.config.data import TokenizeOptions
from compose_rl.data.chat import RowError, renderer
from compose_rl.data.conversations import Draft, draft
from compose_rl.data.encoding import PieceEncoder, starting_text
from compose_rl.data.sources import Row

__all__ = [
    "MDS_COLUMNS",
    "Chunk",
    "RowTokenizer",
    "TokenizedChunk",
    "TokenizedSample",
    "chunks",
    "labels_of",
    "shard_columns",
]

Tokens = NDArray[np.int64]

MDS_COLUMNS: dict[str, dict[str, str]] = {
    "preference": {"prompt": "bytes", "chosen": "bytes", "rejected": "bytes"},
    "unpaired_preference": {"prompt": "bytes", "completion": "bytes", "label": "bytes"},
    "instruction": {"input_ids": "bytes", "labels": "bytes"},
    "messages": {"messages": "json", "metadata": "json"},
    "single_prompt": {"prompt": "bytes"},
    "verifiable_answers": {"prompt": "bytes", "verified_answer": "str"},
    "classifier": {"input": "bytes", "label": "bytes"},
}
"""Columns of the shards of each dataset type, with their encodings."""


def shard_columns(dataset_type: str, rewards: bool) -> dict[str, str]:
    """Columns of the shards, with those of rewards where there are any."""
    extra = {"chosen_reward": "float64", "rejected_reward": "float64"} if rewards else {}
    return MDS_COLUMNS[dataset_type] | extra


@dataclass(frozen=True)
class Chunk:
    """Rows that one process works on at a time."""

    first: int
    """Number of the first row in the source, from 0."""
    rows: list[Row]


@dataclass(frozen=True)
class TokenizedSample:
    """A row's result."""

    row: int
    """Its number in the source, from 0."""
    columns: dict[str, Any]
    """As the shard has them."""
    length: int
    """Tokens of its longest sequence."""
    tokens: int
    """Tokens that it brings to a batch: the prompt once, and all answers."""
    cut: int
    """Tokens that its prompt lost."""
    prompt_hash: int
    """64 bits; equal for equal prompts."""
    content_hash: int
    """64 bits; equal for equal samples."""


@dataclass(frozen=True)
class TokenizedChunk:
    """A chunk's result, in the order of its rows."""

    rows: int
    samples: list[TokenizedSample] = field(default_factory=list)
    dropped: list[tuple[int, str]] = field(default_factory=list)
    """Number and reason of each dropped row."""


class RowTokenizer:
    """Tokenizes chunks of rows; the same rows give the same samples, whatever chunk they are in."""

    def __init__(self, tokenizer: Any, options: TokenizeOptions, rewards: bool) -> None:
        self._options = options
        self._rewards = rewards
        self._encode = PieceEncoder(tokenizer)
        self._renderer = renderer(tokenizer, options)
        self._layout = _LAYOUTS[options.dataset_type](options)
        self._start = starting_text(tokenizer)

    def __call__(self, chunk: Chunk) -> TokenizedChunk:
        """Tokenize a chunk, all its texts in one call of the tokenizer."""
        result = TokenizedChunk(len(chunk.rows))
        kept: list[tuple[int, Draft, list[str], list[bool]]] = []
        for number, row in enumerate(chunk.rows, chunk.first):
            try:
                drafted = draft(row, self._options, self._rewards)
                kept.append((number, drafted, *self._texts(drafted)))
            except RowError as error:
                result.dropped.append((number, str(error)))
        encoded = iter(self._encode([text for _, _, texts, _ in kept for text in texts]))
        for number, drafted, texts, spoken in kept:
            pieces = [next(encoded) for _ in texts]
            try:
                result.samples.append(self._sample(number, drafted, pieces, spoken))
            except RowError as error:
                result.dropped.append((number, str(error)))
        result.dropped.sort()
        return result

    def _texts(self, drafted: Draft) -> tuple[list[str], list[bool]]:
        """The texts of a row's pieces, and which of them the assistant says."""
        if drafted.conversation is not None:
            pieces = self._renderer.conversation(drafted.conversation)
            return [piece.text for piece in pieces], [piece.answer for piece in pieces]
        if not drafted.prompt:
            return [self._start + text for text in drafted.answers], [False] * len(drafted.answers)
        prompt = self._renderer.prompt(drafted.prompt)
        answers = [self._renderer.answer(drafted.prompt, prompt, answer) for answer in drafted.answers]
        return [prompt, *answers], [False] + [True] * len(answers)

    def _sample(
        self, number: int, drafted: Draft, pieces: list[Tokens], spoken: list[bool]
    ) -> TokenizedSample:
        pieces, length, cut = self._fit(pieces, shared=drafted.conversation is None)
        columns = self._layout(pieces, spoken, drafted)
        content = hashlib.blake2b(digest_size=8)
        for name, value in sorted(columns.items()):
            content.update(
                name.encode() + b"\0" + (value if isinstance(value, bytes) else repr(value).encode())
            )
        return TokenizedSample(
            row=number,
            columns=columns,
            length=length,
            tokens=sum(len(piece) for piece in pieces),
            cut=cut,
            prompt_hash=_hash64(drafted.prompt_key() if drafted.prompt else drafted.answers[0]),
            content_hash=int.from_bytes(content.digest(), "big"),
        )

    def _fit(self, pieces: list[Tokens], shared: bool) -> tuple[list[Tokens], int, int]:
        """Bring a sample within ``max_length``.

        Args:
            shared: the first piece is the prompt of each of the others; else the pieces follow each other.

        Returns:
            The pieces, the tokens of the longest sequence, the tokens cut from the start of the first piece.
        """
        sizes = [len(piece) for piece in pieces]
        rest = (max if shared else sum)(sizes[1:], **({"default": 0} if shared else {}))
        over = sizes[0] + rest - self._options.max_length
        if over <= 0:
            return pieces, sizes[0] + rest, 0
        if self._options.truncation == "drop" or self._options.dataset_type in ("messages", "classifier"):
            raise RowError(
                "prompt over max_length" if sizes[0] > self._options.max_length else "over max_length"
            )
        if over >= sizes[0]:
            raise RowError("over max_length even without its prompt")
        return [pieces[0][over:], *pieces[1:]], self._options.max_length, over


_Layout = Callable[[list[Tokens], list[bool], Draft], dict[str, Any]]


def _named(*names: str) -> Callable[[TokenizeOptions], _Layout]:
    """Pieces as columns of these names, one each; labels as the bytes of int64."""

    def layout(pieces: list[Tokens], spoken: list[bool], drafted: Draft) -> dict[str, Any]:
        columns: dict[str, Any] = {name: piece.tobytes() for name, piece in zip(names, pieces, strict=True)}
        columns |= drafted.columns
        if "label" in columns:
            columns["label"] = np.atleast_1d(np.array(columns["label"], np.int64)).tobytes()
        return columns

    return lambda options: layout


def _instruction(options: TokenizeOptions) -> _Layout:
    def layout(pieces: list[Tokens], spoken: list[bool], drafted: Draft) -> dict[str, Any]:
        tokens = np.concatenate(pieces)
        return {"input_ids": tokens.tobytes(), "labels": labels_of(pieces, spoken, options.loss_on).tobytes()}

    return layout


def _classifier(options: TokenizeOptions) -> _Layout:
    named = _named("input")(options)
    return lambda pieces, spoken, drafted: named([np.concatenate(pieces)], spoken, drafted)


def _messages(options: TokenizeOptions) -> _Layout:
    return lambda pieces, spoken, drafted: dict(drafted.columns)


_LAYOUTS: dict[str, Callable[[TokenizeOptions], _Layout]] = {
    "preference": _named("prompt", "chosen", "rejected"),
    "unpaired_preference": _named("prompt", "completion"),
    "instruction": _instruction,
    "messages": _messages,
    "single_prompt": _named("prompt"),
    "verifiable_answers": _named("prompt"),
    "classifier": _classifier,
}


def labels_of(pieces: Sequence[Tokens], spoken: Sequence[bool], loss_on: str) -> Tokens:
    """Labels of a conversation: its tokens where there is loss, else -100; never on the first token."""
    labels = np.concatenate(
        [
            piece if answer or loss_on == "all" else np.full_like(piece, -100)
            for piece, answer in zip(pieces, spoken, strict=True)
        ]
    )
    labels[0] = -100
    return labels


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def chunks(rows: Iterator[Row], size: int) -> Iterator[Chunk]:
    """Rows in chunks of ``size``."""
    first = 0
    block: list[Row] = []
    for row in rows:
        block.append(row)
        if len(block) == size:
            yield Chunk(first, block)
            first, block = first + size, []
    if block:
        yield Chunk(first, block)
