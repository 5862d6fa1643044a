"""From texts to token ids, piece by piece."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compose_rl.errors import UserError
from compose_rl.store.manifest import digest

__all__ = ["PieceEncoder", "load_tokenizer", "same_tokens", "starting_text", "tokenizer_digest"]

# One process is one thread: parallel work is over processes, and a fork after threads have started can hang.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_ANCHOR = "\n"


def load_tokenizer(place: str | Path, revision: str | None = None) -> Any:
    """The tokenizer in a folder (or of a hub id).

    Raises:
        UserError: there is none that can be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(place), revision=revision or "main", trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"tokenizer '{place}': cannot be loaded ({' '.join(str(error).split())[:300]});"
            " give a Hugging Face folder or id with tokenizer files"
        ) from None


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of what shapes a tokenizer's output, its chat template included."""
    return digest(f"{_vocabulary(tokenizer)}\0{tokenizer.chat_template or ''}".encode())


def same_tokens(one: Any, other: Any) -> bool:
    """Whether two tokenizers make the same tokens of a text; their chat templates may differ."""
    return _vocabulary(one) == _vocabulary(other)


def _vocabulary(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))


def starting_text(tokenizer: Any) -> str:
    """The beginning-of-sequence token, if this tokenizer puts it in front of a text by itself."""
    ids = tokenizer("")["input_ids"]
    return str(tokenizer.bos_token) if ids and ids[0] == tokenizer.bos_token_id else ""


class PieceEncoder:
    """Encodes pieces of a text so that the pieces' tokens one after the other are the text's.

    Each piece is encoded by itself: its boundary is exact even where the tokenizer would have merged
    characters across it, and a prompt's tokens are the same with and without an answer, as at generation.
    Tokenizers that put a space in front of every text (SentencePiece) would do so for each piece: those
    encode a piece behind a line break, whose tokens are taken off.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        if self._backend is not None:
            self._backend.no_truncation()
            self._backend.no_padding()
        alone, anchor, behind = self._encode(["a", _ANCHOR, f"{_ANCHOR}a"])
        # An anchor that merges with what follows is none: such a tokenizer puts nothing in front either.
        stays = behind[: len(anchor)] == anchor and len(behind) > len(anchor)
        self._anchor = anchor if stays and behind != anchor + alone else []

    def __call__(self, texts: list[str]) -> list[NDArray[np.int64]]:
        """Token ids of each text, without special tokens of the tokenizer's own."""
        if not self._anchor:
            return [np.array(ids, np.int64) for ids in self._encode(texts)]
        size = len(self._anchor)
        encoded = self._encode([_ANCHOR + text for text in texts])
        merged = [row for row, ids in enumerate(encoded) if ids[:size] != self._anchor]
        for row, ids in zip(merged, self._encode([texts[row] for row in merged]), strict=True):
            encoded[row] = self._anchor + ids
        return [np.array(ids[size:], np.int64) for ids in encoded]

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        if self._backend is not None:
            return [item.ids for item in self._backend.encode_batch_fast(texts, add_special_tokens=False)]
        return self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
