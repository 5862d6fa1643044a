"""A DPO step of this project beside one of TRL's: same weights, pairs, precision, cores; the sides take
turns in one run.

Each side is a process in its own environment. A round is a step of each, and of the floor (the step's matrix
products alone).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.sides import Side, options, prepare, rounds, spread


def parse() -> argparse.Namespace:
    parser = options("A DPO step of this project beside one of TRL's.")
    parser.add_argument("--pairs-per-step", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--beta", type=float, default=0.1)
    return parser.parse_args()


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(args, folder, args.steps * args.pairs_per_step)
        names = ("pairs_per_step", "learning_rate", "beta", "threads")
        shared = [x for n in names for x in (f"--{n.replace('_', '-')}", str(getattr(args, n)))]
        ours = [args.python, "-m", "benchmarks.dpo_ours", str(folder), *shared, "--only"]
        trl = [args.trl_python, "-m", "benchmarks.trl.dpo_trl", str(folder), *shared]
        sides = [
            Side("trl", [*trl, "--max-length", str(args.max_length)], args.threads),
            Side("ours", [*ours, "step"], args.threads),
            Side("floor", [*ours, "floor"], args.threads),
        ]
        results = rounds(sides, args.steps, args.warmup)
    spread(results)
    losses = {name: results[name]["figures"]["loss"] for name in ("ours", "trl")}
    for name, values in losses.items():
        print(f"losses of {name:5}", " ".join(f"{loss:.4f}" for loss in values))
    furthest = max(abs(a - b) for a, b in zip(losses["ours"], losses["trl"], strict=True))
    print(f"the losses differ by at most {furthest:.1e}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
