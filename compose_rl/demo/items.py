"""The things the demo talks about, and the property that its preferences teach."""

from __future__ import annotations

import re

__all__ = ["ITEMS", "named_items", "sorted_items", "well_formed"]

ITEMS: dict[str, tuple[str, ...]] = {
    "fruits": (
        *("apple", "banana", "cherry", "date", "fig", "grape"),
        *("kiwi", "lemon", "mango", "olive", "peach", "quince"),
    ),
    "animals": (
        *("badger", "camel", "donkey", "eagle", "falcon", "goat"),
        *("heron", "jackal", "koala", "lion", "otter", "zebra"),
    ),
    "tools": (
        *("anvil", "broom", "chisel", "drill", "funnel", "hammer"),
        *("ladder", "mallet", "pliers", "rake", "shovel", "wrench"),
    ),
}
"""Names by kind, each kind in alphabetical order. No name is a word of the demo's sentences."""

_NAMES = frozenset(name for names in ITEMS.values() for name in names)
_SENTENCE = re.compile(r"[A-Z][^:]*:")


def named_items(text: str) -> list[str]:
    """The items that ``text`` names, in its order, repetitions included."""
    return [word for word in re.findall(r"[a-z]+", text) if word in _NAMES]


def well_formed(prompt: str, answer: str, reference: str | None = None) -> bool:
    """Whether the answer is a sentence and a line for each of the prompt's items, in any order: a reward."""
    sentence, *lines = answer.split("\n")
    return bool(_SENTENCE.fullmatch(sentence)) and sorted(lines) == sorted(named_items(prompt))


def sorted_items(prompt: str, answer: str, reference: str | None = None) -> bool:
    """Whether a well-formed answer names its items in alphabetical order: a verifier of ``evaluate``."""
    items = named_items(answer)
    return well_formed(prompt, answer) and items == sorted(items)
