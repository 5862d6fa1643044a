"""Programs that say whether an answer is right: ``(prompt, answer, reference) -> bool | float``."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from compose_rl.config.evaluate import verifier_source
from compose_rl.rewards.final_number import final_number

__all__ = ["Verifier", "gsm8k", "load"]

Verifier = Callable[[str, str, str], bool | float]


def gsm8k(prompt: str, answer: str, reference: str) -> bool:
    """Whether the answer's final number is the reference's (GSM8K, Cobbe et al., arXiv 2110.14168)."""
    given = final_number(answer)
    return given is not None and given == final_number(reference)


def load(name: str) -> Verifier:
    """The verifier called ``name``.

    Raises:
        UserError: there is none.
    """
    module, function, _ = verifier_source(name)
    return getattr(importlib.import_module(module), function)
