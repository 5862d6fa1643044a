"""The prompts that answers are asked for, in an order that depends on the data and a seed alone."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from composer.utils import dist
from transformers import PreTrainedTokenizerBase

from compose_rl.config.data import PromptLoaderConfig, TokenizeOptions
from compose_rl.data.chat import RowError, renderer
from compose_rl.data.decode import token_column
from compose_rl.data.encoding import PieceEncoder
from compose_rl.data.shards import Sample, ShardDataset
from compose_rl.errors import UserError

__all__ = ["Prompt", "PromptDecoder", "PromptSource"]


@dataclass(frozen=True)
class Prompt:
    """What is asked."""

    index: int
    """Of the sample in its dataset."""
    tokens: tuple[int, ...]
    """At least one."""
    text: str
    """Without special tokens."""
    columns: dict[str, Any]
    """What else the data has: ``verified_answer``, ``vstar``, ``messages``, ..."""


class PromptDecoder:
    """Makes tokens and columns of a row of ``single_prompt``, ``verifiable_answers`` or ``messages`` shards.

    Messages are tokenized with the chat template's opening of an answer behind them; an answer that they
    end with is left out, and what is in ``metadata`` becomes columns.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def __call__(self, row: dict[str, Any]) -> Sample:
        if "messages" in row:
            tokens, columns = self._conversation(row["messages"]), dict(row.get("metadata") or {})
        else:
            tokens, columns = token_column(row, "prompt").tolist(), {}
        for name, value in row.items():
            if name not in ("prompt", "metadata") and not isinstance(value, bytes):
                columns[name] = value.item() if isinstance(value, np.generic) else value
        return {"tokens": tokens, "length": len(tokens), "columns": columns}

    def _conversation(self, messages: list[dict[str, Any]]) -> list[int]:
        if messages and messages[-1].get("role") == "assistant":
            messages = messages[:-1]
        if not messages:
            return []
        render, encode = self._chat
        try:
            return encode([render.prompt(messages)])[0].tolist()
        except RowError as error:
            raise UserError(f"messages shards: {error}; tokenize the data again") from None

    @functools.cached_property
    def _chat(self) -> tuple[Any, PieceEncoder]:
        options = TokenizeOptions(dataset_type="messages")
        return renderer(self._tokenizer, options), PieceEncoder(self._tokenizer)


@dataclass(frozen=True)
class _Survey:
    """What was found in a part of the samples."""

    lengths: list[int]
    values: list[float]
    """Of the curriculum's column; empty without one."""
    error: str | None = None


class PromptSource:
    """Random access to prompts.

    Pass after pass over all of them. Its whole state is :attr:`taken`; any number of ranks see the same.
    All samples are looked at when it is made, each rank a part of them, unless they are known to fit.

    Raises:
        UserError: there are no prompts, some are empty or too long, or the curriculum's column is missing or
            no number.
    """

    def __init__(self, config: PromptLoaderConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        dataset = config.dataset
        self.taken = 0
        """Prompts that were taken, all passes counted; may be set, to go on from there."""
        self.dropped = 0
        """Prompts left out because they are too long."""
        self.longest = 0
        """Tokens of the longest prompt that is not, or at most so many."""
        self._tokenizer = tokenizer
        self._seed = dataset.shuffle_seed
        self._shuffle = dataset.shuffle
        # Lengths are judged here, where a prompt that is too long may be left out.
        readable = dataset.model_copy(update={"max_seq_len": sys.maxsize})
        self._samples = ShardDataset(readable, PromptDecoder(tokenizer))
        self._kept, self._values = self._all(config.longest) if _fits(config) else self._survey(config)
        self._order = functools.lru_cache(maxsize=2)(self._order_of)

    def __len__(self) -> int:
        """Prompts of a pass."""
        return len(self._kept)

    def take(self, count: int) -> list[Prompt]:
        """The next ``count`` prompts; the last ones may be of the next pass, and so the first ones again."""
        prompts = [self._at(number) for number in range(self.taken, self.taken + count)]
        self.taken += count
        return prompts

    def _at(self, number: int) -> Prompt:
        turn, place = divmod(number, len(self))
        index = int(self._kept[self._order(turn)[place]])
        sample = self._samples.get_item(index)
        text = self._tokenizer.decode(sample["tokens"], skip_special_tokens=True)
        return Prompt(index, tuple(sample["tokens"]), text, sample["columns"])

    def _order_of(self, turn: int) -> np.ndarray:
        order = np.arange(len(self))
        if self._shuffle:
            order = np.random.default_rng([self._seed, turn]).permutation(len(self))
        if turn == 0 and self._values is not None:
            return order[np.argsort(self._values[order], kind="stable")]
        return order

    def _all(self, longest: int | None) -> tuple[np.ndarray, None]:
        """Indices of all samples, none of which has more than ``longest`` tokens."""
        self.longest = longest or 0
        return np.arange(self._samples.num_samples), None

    def _survey(self, config: PromptLoaderConfig) -> tuple[np.ndarray, np.ndarray | None]:
        """Indices of the prompts that can be used, and the curriculum's numbers for them."""
        own = np.array_split(np.arange(self._samples.num_samples), dist.get_world_size())
        parts: list[_Survey] = dist.all_gather_object(
            _look(self._samples.get_item, own[dist.get_global_rank()].tolist(), config.curriculum)
        )
        for part in parts:
            if part.error is not None:
                raise UserError(part.error)
        lengths = np.array([length for part in parts for length in part.lengths], np.int64)
        if not len(lengths):
            raise UserError("prompts: the dataset has no samples; tokenize data with rows for this split")
        kept = self._fitting(lengths, config)
        self.dropped, self.longest = len(lengths) - len(kept), int(lengths[kept].max())
        values = np.array([value for part in parts for value in part.values])
        return kept, values[kept] if config.curriculum is not None else None

    @staticmethod
    def _fitting(lengths: np.ndarray, config: PromptLoaderConfig) -> np.ndarray:
        room, answer = config.dataset.max_seq_len, config.dataset.max_gen_len
        kept = np.flatnonzero(lengths + answer <= room)
        many = len(lengths) - len(kept)
        if not many or (config.drop_long and len(kept)):
            return kept
        remedy = f"raise max_seq_len to {lengths.max() + answer} or lower max_gen_len"
        if len(kept):
            remedy += ", or leave them out with train_loader.drop_long: true"
        raise UserError(
            f"prompts: {many} of {len(lengths)} with max_gen_len {answer} are over max_seq_len {room}, the"
            f" longest (sample {lengths.argmax()}) has {lengths.max()} tokens; {remedy}"
        )


def _fits(config: PromptLoaderConfig) -> bool:
    """Whether it is known, without a look at them, that all prompts can be used, in the data's order."""
    if config.longest is None or config.curriculum is not None:
        return False
    return config.longest + config.dataset.max_gen_len <= config.dataset.max_seq_len


def _look(read: Callable[[int], Sample], indices: list[int], column: str | None) -> _Survey:
    """Lengths, and numbers in ``column``, of some samples; an error is told instead of raised, so that all
    ranks end with it."""
    lengths: list[int] = []
    values: list[float] = []
    try:
        for index in indices:
            sample = read(index)
            if not sample["length"]:
                raise UserError(f"prompts: sample {index} is empty; tokenize data without empty prompts")
            lengths.append(sample["length"])
            if column is not None:
                values.append(_number(sample["columns"], column, index))
    except UserError as error:
        return _Survey([], [], str(error))
    return _Survey(lengths, values)


def _number(columns: dict[str, Any], name: str, index: int) -> float:
    if name not in columns:
        raise UserError(
            f"train_loader.curriculum='{name}': sample {index} has no such column; it has:"
            f" {', '.join(sorted(columns)) or 'none'}"
        )
    value = columns[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(
            f"train_loader.curriculum='{name}': sample {index} has {str(value)[:40]!r}, which is no finite"
            " number; name a column with numbers"
        )
    return float(value)
