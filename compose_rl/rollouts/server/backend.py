"""What the server asks of an engine.

Imports nothing heavy: it is used in the environments ``train`` and ``rollout`` alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from compose_rl.rollouts.types import Completion, Request, Sampling

__all__ = ["Backend"]


class Backend(Protocol):
    """An engine with a model in it.

    The server keeps order: ``load_weights``, ``sleep`` and ``wake`` are called while no ``generate`` runs,
    and a backend that sleeps is woken before weights come or answers are asked for. ``generate`` is called
    by several threads at once; an engine that cannot do that takes a lock of its own.
    """

    version: int
    """Of the weights: what the last ``load_weights`` was told, 0 before the first. The backend sets it."""
    vocab_size: int
    max_length: int
    """Tokens of a prompt and its answer together."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        """Answers to each request, one for each of its seeds, in order, of the present ``version``.

        The server has checked that every prompt's tokens are in the vocabulary and that it fits with its
        answer into ``max_length``.

        Raises:
            UserError: the engine cannot serve the requests.
        """
        ...

    def load_weights(self, folder: Path, version: int) -> None:
        """Take over the weights of a folder of safetensors files.

        The server has checked their names and shapes against those of the model it was started with.
        """
        ...

    def sleep(self) -> None:
        """Free the accelerator's memory; does nothing when asleep."""
        ...

    def wake(self) -> None:
        """Be able to generate again, with the same weights; does nothing when awake."""
        ...

    def health(self) -> dict[str, Any]:
        """What ``GET /health`` says of the engine beside version and sizes, such as its name."""
        ...

    def close(self) -> None: ...
