"""The number that an answer to a word problem ends in."""

from __future__ import annotations

import re

__all__ = ["final_number"]

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")
_FINAL = re.compile(r"(?:####|\bA:|\banswer is:?)\s*(-?\$?\d[\d,]*(?:\.\d+)?)")


def final_number(text: str) -> float | None:
    """The number after the last ``####``, ``A:`` or ``answer is``; where there is none, the last number."""
    found = _FINAL.findall(text) or _NUMBER.findall(text)
    return float(found[-1].replace(",", "").replace("$", "")) if found else None
