"""Where sentences end, in a text and among its tokens."""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from typing import Any

__all__ = ["sentence_ends", "token_ends"]

_END = re.compile(r"(?:[.!?\u2026]+[\"'\u201d\u2019)\]*]*(?=\s)|[\u3002\uff01\uff1f]|\n+)")
_ABBREVIATED = re.compile(
    r"(?:\b(?i:mr|mrs|ms|dr|prof|st|vs|etc|e\.g|i\.e|cf|al|fig|eq|no|approx|inc|ltd|jr|sr)"
    r"|(?:^|\b[A-Z][\w.]*)\s*\b[A-Z]|^\s*\d+)\.$",
    re.MULTILINE,
)
"""What a full stop follows without ending a sentence: abbreviations, initials, numbers of list items."""


def sentence_ends(text: str) -> list[int]:
    """Where each sentence of ``text`` ends: the place behind its last character; the last is the text's end.

    A sentence ends with ``.``, ``!`` or ``?`` (and quotes or brackets that close behind it) before a space,
    or with a line. One without a letter or a digit belongs to the one before it.
    """
    ends: list[int] = []
    start = 0
    for found in _END.finditer(text):
        end = found.end() if not found[0].startswith("\n") else found.start()
        if _ABBREVIATED.search(text[start:end]) and not found[0].startswith("\n"):
            continue
        if re.search(r"\w", text[start:end]):
            ends.append(end)
            start = found.end()
    if re.search(r"\w", text[start:]) or not ends:
        return [*ends, len(text)]
    return [*ends[:-1], len(text)]


def token_ends(tokenizer: Any, tokens: Sequence[int], ends: Sequence[int]) -> list[int]:
    """The index of the token that completes each of ``ends``, places in the text that ``tokens`` decode to.

    The last of them stands for the last token, with which a model has read everything.
    """

    def decoded(count: int) -> int:
        return len(tokenizer.decode(tokens[:count], skip_special_tokens=True))

    counts = range(len(tokens) + 1)
    places = [bisect.bisect_left(counts, end, key=decoded) - 1 for end in ends[:-1]]
    return [max(0, min(place, len(tokens) - 1)) for place in places] + [len(tokens) - 1]
