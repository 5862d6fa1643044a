"""The document of the stage ``evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from compose_rl.config.functions import module_functions
from compose_rl.config.schema import Config, neutral
from compose_rl.errors import UserError
from compose_rl.store.manifest import digest

__all__ = ["VERIFIERS", "Evaluate", "verifier_code", "verifier_source"]

VERIFIERS = {"gsm8k": "compose_rl.evaluation.verifiers.gsm8k"}
"""Verifiers with a short name; any other is given by its dotted path."""


class Evaluate(Config):
    """What to generate, and how to judge it."""

    num_prompts: int = Field(256, ge=1)
    """Held-out prompts to answer; all of them where there are fewer."""
    num_pairs: int = Field(512, ge=1)
    """Held-out pairs to score; all of them where there are fewer."""
    max_new_tokens: int = Field(256, ge=1)
    temperature: float = Field(1.0, ge=0)
    """0 takes the likeliest token always; KL is then not estimated, since it needs samples."""
    seed: int = 17
    batch_size: PositiveInt = neutral(64, "answers generated at a time; each has random numbers of its own")
    precision: Literal["float32", "bfloat16"] = "float32"
    verifier: str | None = None
    """``gsm8k``, or the dotted path of a function ``(prompt, answer, reference) -> bool | float``;
    the reference is the known answer, or the chosen one where only pairs are given."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Of the bootstrap intervals."""
    num_resamples: int = Field(2000, ge=100)
    """Of the bootstrap."""
    num_samples: int = Field(12, ge=0)
    """Answers shown in the report."""


def verifier_source(name: str) -> tuple[str, str, Path]:
    """Module, function and source file of the verifier ``name``, found without running the module.

    Raises:
        UserError: there is no such module, or no such function in it.
    """
    path = VERIFIERS.get(name, name)
    module, _, function = path.rpartition(".")
    where = f"evaluate config: verifier='{name}'"
    found = module_functions(module)
    if found is None:
        known = ", ".join(sorted(VERIFIERS))
        raise UserError(f"{where}: no such module; give one of: {known}, or the dotted path of a function")
    source, names = found
    if function not in names:
        raise UserError(f"{where}: {source} has no function '{function}'; it has: {', '.join(sorted(names))}")
    return module, function, source


def verifier_code(config: Evaluate) -> dict[str, str]:
    """SHA-256 of the verifier's source file, by its name."""
    if config.verifier is None:
        return {}
    _, _, source = verifier_source(config.verifier)
    return {config.verifier: digest(source.read_bytes())}
