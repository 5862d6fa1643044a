"""What an iteration of the PPO benchmark is: options that both sides take."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

__all__ = ["CLIP", "GAMMA", "LAMBDA", "VALUE_WEIGHT", "add_options", "as_arguments", "checked_rows", "rows"]

CLIP, GAMMA, LAMBDA, VALUE_WEIGHT = 0.2, 1.0, 0.95, 0.1
"""TRL's defaults; the clip range is that of ratios and of values."""

_COUNTS = {"prompts": 32, "new_tokens": 64, "epochs": 1, "minibatches": 1, "seed": 0}
_NUMBERS = {"learning_rate": 1e-3, "kl_coef": 0.05}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of an iteration."""
    for kind, options in (int, _COUNTS), (float, _NUMBERS):
        for name, usual in options.items():
            parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=usual)


def as_arguments(args: argparse.Namespace) -> list[str]:
    """The same options as arguments of another process."""
    names = [*_COUNTS, *_NUMBERS]
    return [part for name in names for part in (f"--{name.replace('_', '-')}", str(getattr(args, name)))]


def rows(folder: Path) -> list[dict[str, Any]]:
    """Lines of ``pairs.jsonl``: an iteration takes its prompts from them in order."""
    with (folder / "pairs.jsonl").open() as lines:
        return [json.loads(line) for line in lines]


def checked_rows(folder: Path) -> list[tuple[list[int], list[int]]]:
    """Prompts and answers, of one length, that both sides judge before they begin."""
    return [(row["prompt_ids"], row["chosen_ids"][:16]) for row in rows(folder)[:4]]
