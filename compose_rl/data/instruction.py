"""Samples for supervised fine-tuning: from instruction shards, or from messages tokenized on the fly."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from compose_rl.config.data import TokenizeOptions
from compose_rl.data.chat import RowError, renderer
from compose_rl.data.decode import token_column
from compose_rl.data.encoding import PieceEncoder
from compose_rl.data.shards import Sample
from compose_rl.data.tokenizing import labels_of
from compose_rl.errors import UserError

__all__ = ["InstructionDecoder"]


class InstructionDecoder:
    """Makes tokens and labels (-100 where no loss) of a row.

    Args:
        tokenizer: needed for ``messages`` shards, with a chat template.
        loss_on: which tokens of a conversation have loss; instruction shards have their labels.
    """

    def __init__(self, tokenizer: Any, loss_on: Literal["answers", "all"] = "answers") -> None:
        self._tokenizer = tokenizer
        self._loss_on = loss_on
        self._chat: tuple[Any, PieceEncoder] | None = None

    def __call__(self, row: dict[str, Any]) -> Sample:
        if "messages" in row:
            return self._conversation(row["messages"])
        tokens, labels = token_column(row, "input_ids"), token_column(row, "labels")
        if len(tokens) != len(labels):
            raise UserError(
                f"instruction shards: {len(tokens)} input_ids but {len(labels)} labels; tokenize again"
            )
        return {"pieces": (tokens, labels), "length": len(tokens)}

    def _conversation(self, messages: Any) -> Sample:
        if self._chat is None:
            options = TokenizeOptions(dataset_type="messages")
            self._chat = renderer(self._tokenizer, options), PieceEncoder(self._tokenizer)
        render, encode = self._chat
        try:
            parts = render.conversation(messages)
        except RowError as error:
            raise UserError(f"messages shards: {error}; tokenize the data again") from None
        if not any(part.answer for part in parts):
            raise UserError("messages shards: a conversation has no answer; tokenize data with answers")
        pieces = encode([part.text for part in parts])
        labels = labels_of(pieces, [part.answer for part in parts], self._loss_on)
        return {"pieces": (np.concatenate(pieces), labels), "length": len(labels)}
