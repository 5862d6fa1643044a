"""What generation takes and gives.

Imports nothing heavy: the server of the environment ``rollout`` uses it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Completion", "Generator", "Pushed", "Request", "Sampling"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen."""

    max_new_tokens: int
    temperature: float
    """Divides the logits; 0: the likeliest token always."""
    stop: tuple[int, ...]
    """Tokens that end an answer; the one that did is part of it."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""


@dataclass(frozen=True)
class Request:
    """A prompt and how many answers it gets: one for each seed.

    An answer depends on weights, prompt and its seed alone: not on what else is generated with it, up to
    rounding.
    """

    prompt: tuple[int, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Completion:
    """An answer."""

    tokens: tuple[int, ...]
    """At least one; with the token that ended it."""
    logprobs: tuple[float, ...]
    """Of each token under softmax(logits / temperature), before ``top_p`` and ``top_k``."""
    finished: bool
    """False: cut at ``max_new_tokens``."""
    version: int
    """Of the weights: the number of the last push, 0 before the first."""


@dataclass(frozen=True)
class Pushed:
    """What it took to hand over new weights."""

    bytes: int
    seconds: float


class Generator(Protocol):
    """An engine."""

    shared: bool
    """True: one for all ranks, rank 0 alone talks to it. False: each rank has its own, for its requests."""

    def push(self, weights: Iterable[tuple[str, Tensor]], version: int) -> Pushed:
        """Take over the policy's weights, under the names of the Hugging Face model."""
        ...

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, done: Callable[[int], None] = ...
    ) -> list[list[Completion]]:
        """Answers to each request, in order; ``done`` is told how many answers have come since the last call.

        Raises:
            UserError: the engine cannot serve the requests (a prompt too long for it, foreign tokens).
            TransientError: no server could be brought back.
        """
        ...

    def close(self) -> None: ...
