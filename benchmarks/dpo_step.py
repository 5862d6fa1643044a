"""A DPO step of this project beside one of TRL's: same weights, pairs, precision, cores; the sides take
turns in one run.

Each side is a process in its own environment. A round is a step of each, and of the floor (the step's matrix
products alone).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


class Side:
    """A worker process and what it has measured."""

    def __init__(self, name: str, command: list[str], threads: int) -> None:
        self.name = name
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.versions = {k: v for k, v in self._read().items() if k != "ready"}
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the {self.name} side ended with exit code {self.process.wait()}")
        return json.loads(line)

    def ask(self, command: str) -> dict[str, Any]:
        assert self.process.stdin
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self._read()

    def step(self) -> None:
        answer = self.ask("step")
        self.seconds.append(answer["seconds"])
        if "loss" in answer:
            self.losses.append(answer["loss"])

    def close(self) -> dict[str, float]:
        memory = self.ask("memory")
        assert self.process.stdin
        self.process.stdin.write("quit\n")
        self.process.stdin.close()
        self.process.wait()
        return memory


def summary(side: Side, memory: dict[str, float], warmup: int) -> dict[str, Any]:
    """Median and range of the steps after the warm-up, memory above the imports, losses."""
    seconds = side.seconds[warmup:]
    return {
        "median_s": statistics.median(seconds),
        "min_s": min(seconds),
        "max_s": max(seconds),
        "peak_above_imports_mib": memory["peak_mib"] - memory["imports_mib"],
        "losses": side.losses,
        **side.versions,
    }


def show(results: dict[str, dict[str, Any]]) -> None:
    ours, trl, floor = results["ours"], results["trl"], results["floor"]
    print(f"{'':8} {'seconds per step':>28} {'peak memory above imports':>28}")
    for name, result in results.items():
        spread = f"{result['median_s']:.2f} ({result['min_s']:.2f} to {result['max_s']:.2f})"
        memory = "" if name == "floor" else f"{result['peak_above_imports_mib']:.0f} MiB"
        print(f"{name:8} {spread:>28} {memory:>28}")
    for name in ("ours", "trl"):
        print(f"losses of {name:5}", " ".join(f"{loss:.4f}" for loss in results[name]["losses"]))
    furthest = max(abs(a - b) for a, b in zip(ours["losses"], trl["losses"], strict=True))
    print(f"ours is {trl['median_s'] / ours['median_s']:.2f} times as fast as TRL {trl['trl']},")
    print(f"with {ours['peak_above_imports_mib'] / trl['peak_above_imports_mib']:.2f} of its memory;")
    print(f"{ours['median_s'] / floor['median_s']:.2f} times the floor;")
    print(f"the losses differ by at most {furthest:.1e}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=Path, help="jsonl: prompt, chosen, rejected; generated if left out")
    parser.add_argument("--tokenizer", type=Path, help="folder; trained on the pairs if left out")
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--warmup", type=int, default=2, help="first steps, left out of the medians")
    parser.add_argument("--pairs-per-step", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trl-python", default=str(ROOT / ".venvs/bench/bin/python"))
    parser.add_argument("--python", default=sys.executable, help="the interpreter of our side")
    parser.add_argument("--json", type=Path, help="write the results here as well")
    return parser.parse_args()


def main() -> None:
    args = parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare = [
            args.python,
            "-m",
            "benchmarks.dpo_data",
            str(folder),
            str(args.steps * args.pairs_per_step),
        ]
        for option in ("pairs", "tokenizer"):
            value = getattr(args, option)
            prepare += [f"--{option}", str(value.resolve())] if value else []
        subprocess.run(prepare, cwd=ROOT, check=True)
        names = ("pairs_per_step", "learning_rate", "beta", "threads")
        shared = [x for n in names for x in (f"--{n.replace('_', '-')}", str(getattr(args, n)))]
        ours = [args.python, "-m", "benchmarks.dpo_ours", str(folder), *shared, "--only"]
        trl = [args.trl_python, "-m", "benchmarks.trl.dpo_trl", str(folder), *shared]
        sides = [
            Side("trl", [*trl, "--max-length", str(args.max_length)], args.threads),
            Side("ours", [*ours, "step"], args.threads),
            Side("floor", [*ours, "floor"], args.threads),
        ]
        for number in range(args.steps):
            for side in sides:
                side.step()
            latest = (f"{side.name} {side.seconds[-1]:.2f} s" for side in sides)
            print(f"step {number + 1}/{args.steps}:", *latest, flush=True)
        results = {side.name: summary(side, side.close(), args.warmup) for side in sides}
    show(results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
