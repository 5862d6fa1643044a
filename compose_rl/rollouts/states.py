"""What a model remembers of the answers that are being written, a row each.

Rows of different lengths stand side by side: row r has its tokens at 0 .. position[r], and nothing is padded
but the mask. A row that is done gives its place to the last one.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

from compose_rl.rollouts.types import Request

__all__ = ["CachedStates", "keeps_rows"]

_NEEDED = {"position_ids", "logits_to_keep"}
_PREFILL_TOKENS = 2048
"""Prompts that are run together: enough for large products, without much memory."""


def keeps_rows(model: nn.Module, width: int) -> bool:
    """Whether rows of ``width`` tokens can be kept.

    A model has to attend to all of a row, by positions that it is given, in a cache that is not its own.
    """
    config: Any = model.config
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return (
        getattr(model, "_supports_static_cache", False)
        and not getattr(config, "alibi", False)  # made from a mask [n, tokens], of which rows have none
        and any(inspect.signature(forward).parameters.keys() >= _NEEDED for forward in _forwards(model))
        and (window is None or window >= width)
    )


def _forwards(model: nn.Module) -> list[Any]:
    """The forward of the model's class and those of its bases, which it may pass arguments on to."""
    return [vars(base)["forward"] for base in type(model).__mro__ if "forward" in vars(base)]


class _Slots(Cache):
    """Keys and values [rows, heads, width, size] of each layer, made when their shape is known."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.shape = (rows, width)
        self.layers_kv: list[tuple[Tensor, Tensor]] = []
        self.index: tuple[Tensor, Tensor]
        """Row and position of each new token."""
        self.seen: int
        """The longest row, with its new token."""

    def layer(self, number: int, like: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if number == len(self.layers_kv):
            rows, width = self.shape
            # Zeros, since what a mask hides is still multiplied by 0.
            made = [part.new_zeros(rows, part.size(1), width, part.size(3)) for part in like]
            self.layers_kv.append((made[0], made[1]))
        return self.layers_kv[number]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, cache_kwargs: Any = None
    ) -> tuple[Tensor, Tensor]:
        rows, positions = self.index
        whole = self.layer(layer_idx, (key_states, value_states))
        for kept, new in zip(whole, (key_states, value_states), strict=True):
            kept[rows, :, positions] = new[:, :, 0]
        keys, values = (kept[: len(rows), :, : self.seen] for kept in whole)
        return keys, values

    def get_seq_length(self, layer_idx: int | None = 0) -> int:
        return self.seen - 1

    def get_max_cache_shape(self) -> int | None:
        return None


class CachedStates:
    """Keys and values are kept; each prompt is run once for all of its answers.

    Args:
        requests: in the order in which their answers begin, ``rows`` at a time.
        width: tokens of the longest prompt with its answer.
    """

    def __init__(self, model: nn.Module, requests: list[Request], rows: int, width: int) -> None:
        self.model = model
        self.slots = _Slots(rows, width)
        self.waiting = list(reversed(requests))
        self.prompts: dict[int, list[tuple[Tensor, Tensor]]] = {}
        """By id of a request: keys and values [heads, P - 1, size] of each layer."""
        self.left: dict[int, int] = {id(request): len(request.seeds) for request in requests}
        self.device: torch.device = next(model.parameters()).device
        self.dtype: torch.dtype = next(model.parameters()).dtype
        self.columns = torch.arange(width, device=self.device)

    def put(self, row: int, request: Request) -> None:
        """Begin an answer in ``row``: all of the prompt but its last token has been seen."""
        known = len(request.prompt) - 1
        if known:
            if id(request) not in self.prompts:
                self._prefill()
            for number, parts in enumerate(self.prompts[id(request)]):
                whole = self.slots.layer(number, (parts[0][None], parts[1][None]))
                for kept, new in zip(whole, parts, strict=True):
                    kept[row, :, :known] = new
        self.left[id(request)] -= 1
        if not self.left[id(request)]:
            self.prompts.pop(id(request), None)

    def _prefill(self) -> None:
        batch: list[Request] = []
        width = 0
        while self.waiting and max(width, len(self.waiting[-1].prompt)) * (len(batch) + 1) <= _PREFILL_TOKENS:
            batch.append(self.waiting.pop())
            width = max(width, len(batch[-1].prompt) - 1)
        if not batch:
            batch.append(self.waiting.pop())
            width = len(batch[-1].prompt) - 1
        # Padding stands behind, where no token sees it, and is not copied.
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        for row, request in enumerate(batch):
            ids[row, : len(request.prompt) - 1] = torch.tensor(request.prompt[:-1], dtype=torch.long)
        cache = DynamicCache()
        self.model(input_ids=ids.to(self.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
        layers = list(zip(cache.key_cache, cache.value_cache, strict=True))
        for row, request in enumerate(batch):
            known = len(request.prompt) - 1
            self.prompts[id(request)] = [(k[row, :, :known], v[row, :, :known]) for k, v in layers]

    def move(self, source: int, target: int) -> None:
        for whole in self.slots.layers_kv:
            for kept in whole:
                kept[target] = kept[source]

    def step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Logits [n, V] of rows 0 .. n - 1 after their next token, ``tokens`` [n], at ``positions`` [n]."""
        slots = self.slots
        slots.index = (torch.arange(len(tokens), device=self.device), positions)
        slots.seen = int(positions.max()) + 1
        hidden = self.columns[: slots.seen] > positions[:, None]
        # Added to the scores, which every implementation of attention understands.
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device)
        mask.masked_fill_(hidden, torch.finfo(self.dtype).min)
        output = self.model(
            input_ids=tokens[:, None],
            position_ids=positions[:, None],
            attention_mask=mask[:, None, None],
            past_key_values=slots,
            use_cache=True,
            cache_position=torch.tensor([slots.seen - 1], device=self.device),
        )
        return output.logits[:, -1]
