"""Requests and answers about lists of items, drawn with a seeded generator."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from compose_rl.demo.items import ITEMS

__all__ = ["WORD_PATTERN", "Request", "answer", "instructions", "preferences", "requests", "vocabulary"]

WORD_PATTERN = r"[ \n]?[A-Za-z]+|[^A-Za-z\s]|\s"
"""A token of the language: a word with the space or line break before it, a sign, or white space alone."""

REQUESTS = (
    "Please list these {kind}:{items}",
    "Which {kind} do I have?{items}",
    "Write down the {kind} for me:{items}",
    "Can you make a list of this?{items}",
    "We found these {kind} today:{items}",
    "Here are my {kind}:{items}\nPlease name them.",
    "Give me a list of the {kind}, please:{items}",
    "I have this:{items}\nWhat {kind} are there?",
    "Make a note:{items}",
    "What {kind} are in this text?{items}",
)
ANSWERS = (
    "Here is the list:{items}",
    "Your {kind} are these:{items}",
    "The {kind}:{items}",
    "Sure, here you go:{items}",
    "I would write:{items}",
)
COUNTS = (3, 4, 5)


@dataclass(frozen=True)
class Request:
    """A user's request."""

    text: str
    kind: str
    items: tuple[str, ...]
    """In the order in which the request names them, which is never the alphabetical one."""


def _lines(items: tuple[str, ...]) -> str:
    return "".join(f"\n{item}" for item in items)


def _shuffled(items: tuple[str, ...], rng: random.Random) -> tuple[str, ...]:
    """A random order of ``items`` other than the alphabetical one."""
    while (order := tuple(rng.sample(items, len(items)))) == tuple(sorted(items)):
        pass
    return order


def requests(rng: random.Random) -> Iterator[Request]:
    """Requests without end, no text twice."""
    seen: set[str] = set()
    while True:
        kind = rng.choice(sorted(ITEMS))
        items = _shuffled(tuple(rng.sample(ITEMS[kind], rng.choice(COUNTS))), rng)
        text = rng.choice(REQUESTS).format(kind=kind, items=_lines(items))
        if text not in seen:
            seen.add(text)
            yield Request(text, kind, items)


def answer(request: Request, items: tuple[str, ...], wording: str) -> str:
    """An answer to ``request`` that names ``items`` in their order; ``wording`` is one of ``ANSWERS``."""
    return wording.format(kind=request.kind, items=_lines(items))


def instructions(source: Iterator[Request], rng: random.Random, count: int) -> Iterator[dict[str, str]]:
    """Rows ``prompt``, ``response``: half name the items in alphabetical order, half as the request does."""
    for number in range(count):
        request = next(source)
        items = tuple(sorted(request.items)) if number % 2 else request.items
        yield {"prompt": request.text, "response": answer(request, items, rng.choice(ANSWERS))}


def preferences(source: Iterator[Request], rng: random.Random, count: int) -> Iterator[dict[str, str]]:
    """Rows ``prompt``, ``chosen``, ``rejected``: the same items, every other pair worded alike.

    The side that is not sorted has the request's order or another one, so that only being sorted counts.
    """
    for number in range(count):
        request = next(source)
        unsorted = request.items if rng.random() < 0.5 else _shuffled(request.items, rng)
        wording = rng.choice(ANSWERS)
        other = wording if number % 2 else rng.choice(ANSWERS)
        yield {
            "prompt": request.text,
            "chosen": answer(request, tuple(sorted(request.items)), wording),
            "rejected": answer(request, unsorted, other),
        }


def vocabulary() -> list[str]:
    """Every token that the language can produce, sorted."""
    tokens: set[str] = set()
    for kind, names in ITEMS.items():
        for text in (*REQUESTS, *ANSWERS):
            tokens.update(re.findall(WORD_PATTERN, text.format(kind=kind, items=_lines(names))))
    return sorted(tokens)
