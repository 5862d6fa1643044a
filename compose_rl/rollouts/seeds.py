"""Seeds of answers."""

from __future__ import annotations

import hashlib

__all__ = ["answer_seed"]


def answer_seed(seed: int, iteration: int, number: int) -> int:
    """The seed of an iteration's answer ``number`` (counted over all ranks), in [0, 2^63).

    A hash, since near seeds of a generator may give like numbers.
    """
    text = f"{seed}/{iteration}/{number}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
