"""The rewards of the GRPO benchmarks, the same on both sides: (prompt, answer) -> float."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from compose_rl.demo.items import sorted_items

__all__ = ["REWARDS"]


def vowels(prompt: str, answer: str) -> float:
    """Share of an answer's characters that are lower-case vowels."""
    return sum(character in "aeiou" for character in answer) / max(len(answer), 1)


def in_order(prompt: str, answer: str) -> float:
    """1 for an answer that names the items of the prompt, all of them, in alphabetical order, else 0."""
    return float(sorted_items(prompt, answer))


REWARDS: Mapping[str, Callable[[str, str], float]] = {"vowels": vowels, "in_order": in_order}
