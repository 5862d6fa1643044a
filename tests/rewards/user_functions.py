"""What users write as rewards, the bad ones too."""

from __future__ import annotations

import os
import sys
import time


def words(prompt: str, answer: str, reference: str) -> float:
    return len(answer.split())


def matches(prompt: str, answer: str, reference: str) -> float:
    return 1.0 if answer == reference else 0.0


def given(prompt: str, answer: str, reference: str) -> float:
    """The answer itself, as a number: ``nan`` and ``inf`` are."""
    return float(answer)


def hangs(prompt: str, answer: str, reference: str) -> float:
    while answer == "hang":
        time.sleep(0.01)
    return 1.0


def dies(prompt: str, answer: str, reference: str) -> float:
    if answer == "die":
        os._exit(3)
    return 1.0


def process(prompt: str, answer: str, reference: str) -> float:
    return float(os.getpid())


def heavy_modules(prompt: str, answer: str, reference: str) -> float:
    return float(len({"torch", "transformers", "llmfoundry", "sympy"} & set(sys.modules)))
