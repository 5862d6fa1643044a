"""A PPO iteration of this project beside one of TRL's: same weights of policy, reference, critic and reward
model, same prompts, number and length of answers, precision, cores; the sides take turns in one run.

Each side is a process in its own environment. A round is an iteration of each, and of the floor (its matrix
products alone). The answers are each side's own, so their losses differ; their rewards can be compared.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.ppo_options import add_options, as_arguments
from benchmarks.sides import ROOT, Side, options, prepare, rounds, spread

__all__ = ["ppo_parser", "prepare_models", "sides_of"]


def ppo_parser(description: str) -> argparse.ArgumentParser:
    """The options of a benchmark of PPO."""
    parser = options(description)
    parser.set_defaults(trl_python=str(ROOT / ".venvs/bench-ppo/bin/python"))
    parser.add_argument("--trl-at-once", type=int, help="answers that TRL runs at once, by default all")
    parser.add_argument("--old-logprobs", choices=["engine", "trainer"], default="engine", help="of ours")
    add_options(parser)
    return parser


def prepare_models(args: argparse.Namespace, folder: Path, size: str) -> None:
    """Write data, tokenizer and the models of an iteration to ``folder``."""
    prepare(args, folder, args.steps * args.prompts)
    command = [
        args.python,
        "-m",
        "benchmarks.ppo_data",
        str(folder),
        "--size",
        size,
        "--seed",
        str(args.seed),
    ]
    subprocess.run(command, cwd=ROOT, check=True)


def sides_of(args: argparse.Namespace, folder: Path, *, floor: bool) -> list[Side]:
    """The sides, once they have been found to have the same models."""
    shared = ["--threads", str(args.threads), *as_arguments(args)]
    ours = [args.python, "-m", "benchmarks.ppo_ours", str(folder), *shared]
    ours += ["--old-logprobs", args.old_logprobs, "--only"]
    trl = [args.trl_python, "-m", "benchmarks.trl_ppo.ppo_trl", str(folder), *shared]
    trl += ["--at-once", str(args.trl_at_once)] if args.trl_at_once else []
    commands = {"trl": trl, "ours": [*ours, "step"]} | ({"floor": [*ours, "floor"]} if floor else {})
    sides = [Side(name, command, args.threads) for name, command in commands.items()]
    agree(*(side.versions.pop("check") for side in sides))
    return sides


def agree(first: dict[str, list[float]], *others: dict[str, list[float]]) -> None:
    """Raises SystemExit where the sides' models judge the same answers differently."""
    for other in others:
        for name, values in first.items():
            for value, same in zip(values, other[name], strict=True):
                if not math.isclose(value, same, rel_tol=1e-4, abs_tol=1e-4):
                    raise SystemExit(f"{name} of the same answers: {values} and {other[name]}")


def show(results: dict[str, dict[str, Any]], warmup: int) -> None:
    """Where our time goes, what both sides cost beside others on the machine, their rewards."""
    figures = {name: results[name]["figures"] for name in ("ours", "trl")}

    def median(side: str, name: str) -> float:
        return statistics.median(figures[side][name][warmup:])

    phases = (f"{name} {median('ours', name):.2f}" for name in ("generate", "score", "logprobs", "train"))
    print("seconds of ours:", *phases)
    print("seconds of the processor:", *(f"{side} {median(side, 'cpu'):.2f}" for side in figures))
    for side, found in figures.items():
        print(f"rewards of {side:5}", " ".join(f"{value:.3f}" for value in found["reward"]))


def main() -> None:
    args = ppo_parser("A PPO iteration of this project beside one of TRL's.").parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare_models(args, folder, "small")
        results = rounds(sides_of(args, folder, floor=True), args.steps, args.warmup)
    spread(results)
    show(results, args.warmup)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
