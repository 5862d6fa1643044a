"""Programs that say whether an answer is right: ``(prompt, answer, reference) -> bool | float``."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable

from compose_rl.config.evaluate import verifier_source

__all__ = ["Verifier", "gsm8k", "load"]

Verifier = Callable[[str, str, str], bool | float]

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")
_FINAL = re.compile(r"(?:####|\bA:|\banswer is:?)\s*(-?\$?\d[\d,]*(?:\.\d+)?)")


def _final_number(text: str) -> float | None:
    """The number after the last ``####``, ``A:`` or ``answer is``; where there is none, the last number."""
    found = _FINAL.findall(text) or _NUMBER.findall(text)
    return float(found[-1].replace(",", "").replace("$", "")) if found else None


def gsm8k(prompt: str, answer: str, reference: str) -> bool:
    """Whether the answer's final number is the reference's (GSM8K, Cobbe et al., arXiv 2110.14168)."""
    given = _final_number(answer)
    return given is not None and given == _final_number(reference)


def load(name: str) -> Verifier:
    """The verifier called ``name``.

    Raises:
        UserError: there is none.
    """
    module, function, _ = verifier_source(name)
    return getattr(importlib.import_module(module), function)
