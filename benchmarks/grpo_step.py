"""A GRPO iteration of this project beside one of TRL's: same weights, prompts, number and length of answers,
reward, precision, cores; the sides take turns in one run.

Each side is a process in its own environment. A round is an iteration of each, and of the floor (its matrix
products alone). The answers are each side's own, so their losses differ; their rewards can be compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from benchmarks.sides import Side, options, prepare, rounds, spread

_SHARED = ("prompts", "generations", "new_tokens", "learning_rate", "kl_coef", "threads")


def parse() -> argparse.Namespace:
    parser = options("A GRPO iteration of this project beside one of TRL's.")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--generations", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--kl-coef", type=float, default=0.04)
    return parser.parse_args()


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(args, folder, args.steps * args.prompts)
        shared = [x for n in _SHARED for x in (f"--{n.replace('_', '-')}", str(getattr(args, n)))]
        ours = [args.python, "-m", "benchmarks.grpo_ours", str(folder), *shared, "--only"]
        trl = [args.trl_python, "-m", "benchmarks.trl.grpo_trl", str(folder), *shared]
        sides = [
            Side("trl", trl, args.threads),
            Side("ours", [*ours, "step"], args.threads),
            Side("floor", [*ours, "floor"], args.threads),
        ]
        results = rounds(sides, args.steps, args.warmup)
    spread(results)
    generate = results["ours"]["figures"]["generate"][args.warmup :]
    print(f"{statistics.median(generate):.2f} s of ours are generation;")
    for side in ("ours", "trl"):
        values = results[side]["figures"]["reward"]
        print(f"rewards of {side:5}", " ".join(f"{value:.3f}" for value in values))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
