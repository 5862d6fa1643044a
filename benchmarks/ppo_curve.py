"""The reward that PPO reaches here and in TRL after as many answers: same initial weights of policy,
reference, critic and reward model, same prompts, number and length of answers and settings; the sides take
turns in one run.

A tiny model with random weights is to learn which tokens the reward model likes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.dpo_data import generated_pairs
from benchmarks.grpo_curve import show
from benchmarks.ppo_step import ppo_parser, prepare_models, sides_of
from benchmarks.sides import rounds

_WORDS = 12


def parse() -> argparse.Namespace:
    parser = ppo_parser("The reward that PPO reaches here and in TRL after as many answers.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.set_defaults(steps=40, new_tokens=32, epochs=4)
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error("a spread needs 2 --seeds or more")
    return args


def write_pairs(path: Path, count: int, seed: int) -> Path:
    """Prompts of a few words, which cost little beside their answers."""
    rows = generated_pairs(count, seed)
    short = ({**row, "prompt": " ".join(row["prompt"].split()[:_WORDS])} for row in rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in short))
    return path


def curves(args: argparse.Namespace, seed: int) -> dict[str, dict[str, Any]]:
    """A curve of each side, by its name."""
    args.seed = seed
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        args.pairs = write_pairs(folder / "short.jsonl", args.steps * args.prompts, seed)
        prepare_models(args, folder, "tiny")
        return rounds(sides_of(args, folder, floor=False), args.steps, args.warmup)


def main() -> None:
    args = parse()
    results = [curves(args, seed) for seed in range(args.seeds)]
    show(results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
