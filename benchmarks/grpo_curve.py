"""The reward that GRPO reaches here and in TRL after as many answers: same initial weights, prompts, number
and length of answers, settings and reward; the sides take turns in one run.

A small model that answers requests for lists, half of the time in order, is to learn to answer in order. No
prompt"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from scipy import stats

from benchmarks.sides import ROOT, Side, common_options, rounds

_SHARED = ("prompts", "generations", "new_tokens", "learning_rate", "kl_coef", "threads")
_END = 5
"""Iterations at either end of a curve that are shown."""


def parse() -> argparse.Namespace:
    parser = common_options("The reward that GRPO reaches here and in TRL after as many answers.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--prompts", type=int, default=16, help="of an iteration")
    parser.add_argument("--generations", type=int, default=8, help="answers to a prompt")
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--kl-coef", type=float, default=0.04)
    parser.add_argument("--fine-tuning-steps", type=int, default=400)
    args = parser.parse_args()
    if args.seeds < 2 or args.iterations < 2 * _END:
        parser.error(f"a spread needs 2 --seeds or more, a curve {2 * _END} --iterations or more")
    return args


def prepare(args: argparse.Namespace, folder: Path) -> None:
    """Write the initial model, and each seed's prompts, to ``folder``."""
    sizes = {
        "steps": args.fine_tuning_steps,
        "seeds": args.seeds,
        "prompts": args.iterations * args.prompts,
        "threads": args.threads,
    }
    flags = [x for name, size in sizes.items() for x in (f"--{name}", str(size))]
    command = [args.python, "-m", "benchmarks.grpo_curve_data", str(folder), *flags]
    subprocess.run(command, cwd=ROOT, check=True)


def curves(args: argparse.Namespace, folder: Path, seed: int) -> dict[str, dict[str, Any]]:
    """A curve of each side, by its name."""
    shared = [x for n in _SHARED for x in (f"--{n.replace('_', '-')}", str(getattr(args, n)))]
    shared += ["--reward", "in_order", "--seed", str(seed)]
    trl = [args.trl_python, "-m", "benchmarks.trl.grpo_trl", str(folder), *shared]
    ours = [args.python, "-m", "benchmarks.grpo_ours", str(folder), *shared, "--only", "step"]
    sides = [Side("trl", trl, args.threads), Side("ours", ours, args.threads)]
    return rounds(sides, args.iterations, args.warmup)


def measures(curve: dict[str, Any]) -> dict[str, float]:
    """Mean reward of the first and the last iterations and of all of them, and seconds of an iteration."""
    rewards = curve["figures"]["reward"]
    parts = {"first": rewards[:_END], "last": rewards[-_END:], "all": rewards}
    return {name: statistics.mean(part) for name, part in parts.items()} | {"seconds": curve["median_s"]}


def paired(differences: list[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval of differences, one of each seed (Student's t)."""
    mean = statistics.mean(differences)
    error = statistics.stdev(differences) / len(differences) ** 0.5
    half = float(stats.t.ppf(0.975, len(differences) - 1)) * error
    return mean, mean - half, mean + half


def show(results: list[dict[str, dict[str, Any]]]) -> None:
    """A line for each curve, and how ours compare, seed by seed."""
    names = ("first", "last", "all", "seconds")
    found = [{side: measures(curve) for side, curve in pair.items()} for pair in results]
    print(f"{'seed':4} {'side':4}", *(f"{name:>8}" for name in names))
    for seed, pair in enumerate(found):
        for side, figures in pair.items():
            print(f"{seed:4} {side:4}", *(f"{figures[name]:8.3f}" for name in names))
    for name in ("last", "all"):
        mean, low, high = paired([pair["ours"][name] - pair["trl"][name] for pair in found])
        verdict = "better" if low > 0 else "worse" if high < 0 else "no difference shown"
        print(f"ours - TRL, {name}: {mean:+.3f} [{low:+.3f}, {high:+.3f}]: {verdict}")
    faster = [pair["trl"]["seconds"] / pair["ours"]["seconds"] for pair in found]
    versions = {
        side: {k: v for k, v in results[0][side].items() if isinstance(v, str)} for side in results[0]
    }
    print(f"ours is {min(faster):.2f} to {max(faster):.2f} times as fast; {versions}")


def main() -> None:
    args = parse()
    results: list[dict[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(args, folder)
        for seed in range(args.seeds):
            results.append(curves(args, folder / str(seed), seed))
            if args.json:
                args.json.write_text(json.dumps(results, indent=1) + "\n")
    show(results)


if __name__ == "__main__":
    main()
