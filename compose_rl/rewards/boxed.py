r"""``\boxed{...}``, in which answers to MATH (Hendrycks et al., arXiv 2103.03874) give their result."""

from __future__ import annotations

import re

__all__ = ["last_boxed"]

_BOX = re.compile(r"\\(?:boxed|fbox)\s*")


def last_boxed(text: str) -> str | None:
    r"""What the last ``\boxed`` or ``\fbox`` that is closed holds, or None."""
    found = None
    for box in _BOX.finditer(text):
        inner = _argument(text, box.end())
        if inner is not None:
            found = inner.strip()
    return found


def _argument(text: str, start: int) -> str | None:
    """TeX's argument at ``start``: what is in braces, or one character; None where the braces stay open."""
    if not text.startswith("{", start):
        return text[start : start + 1] or None
    depth = 0
    for place in range(start, len(text)):
        # \{ and \} are characters, not braces.
        if place and text[place - 1] == "\\":
            continue
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start + 1 : place]
    return None
