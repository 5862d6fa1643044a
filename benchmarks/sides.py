"""The sides of a benchmark: each a process in its own environment, taking turns in one run."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "Side", "common_options", "options", "prepare", "rounds", "spread"]

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
        self.figures: dict[str, list[float]] = {}
        """What else a step gives, by name."""

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
        self.seconds.append(answer.pop("seconds"))
        for name, value in answer.items():
            self.figures.setdefault(name, []).append(value)

    def close(self) -> dict[str, float]:
        memory = self.ask("memory")
        assert self.process.stdin
        self.process.stdin.write("quit\n")
        self.process.stdin.close()
        self.process.wait()
        return memory


def summary(side: Side, memory: dict[str, float], warmup: int) -> dict[str, Any]:
    """Median and range of the steps after the warm-up, memory above the imports, what else the steps gave."""
    seconds = side.seconds[warmup:]
    return {
        "median_s": statistics.median(seconds),
        "min_s": min(seconds),
        "max_s": max(seconds),
        "peak_above_imports_mib": memory["peak_mib"] - memory["imports_mib"],
        "figures": side.figures,
        **side.versions,
    }


def rounds(sides: list[Side], steps: int, warmup: int) -> dict[str, dict[str, Any]]:
    """Let the sides take turns; a summary of each by its name."""
    for number in range(steps):
        for side in sides:
            side.step()
        latest = (f"{side.name} {side.seconds[-1]:.2f} s" for side in sides)
        print(f"step {number + 1}/{steps}:", *latest, flush=True)
    return {side.name: summary(side, side.close(), warmup) for side in sides}


def spread(results: dict[str, dict[str, Any]]) -> None:
    """Show seconds and memory of every side, and how ours compare."""
    print(f"{'':8} {'seconds per step':>28} {'peak memory above imports':>28}")
    for name, result in results.items():
        seconds = f"{result['median_s']:.2f} ({result['min_s']:.2f} to {result['max_s']:.2f})"
        memory = "" if name == "floor" else f"{result['peak_above_imports_mib']:.0f} MiB"
        print(f"{name:8} {seconds:>28} {memory:>28}")
    ours, trl, floor = results["ours"], results["trl"], results["floor"]
    print(f"ours is {trl['median_s'] / ours['median_s']:.2f} times as fast as TRL {trl['trl']},")
    print(f"with {ours['peak_above_imports_mib'] / trl['peak_above_imports_mib']:.2f} of its memory;")
    print(f"{ours['median_s'] / floor['median_s']:.2f} times the floor;")


def common_options(description: str) -> argparse.ArgumentParser:
    """What every benchmark beside TRL takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--warmup", type=int, default=2, help="first steps, left out of the medians")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trl-python", default=str(ROOT / ".venvs/bench/bin/python"))
    parser.add_argument("--python", default=sys.executable, help="the interpreter of our side")
    parser.add_argument("--json", type=Path, help="write the results here as well")
    return parser


def options(description: str) -> argparse.ArgumentParser:
    """What a benchmark of a step takes."""
    parser = common_options(description)
    parser.add_argument("--pairs", type=Path, help="jsonl: prompt, chosen, rejected; generated if left out")
    parser.add_argument("--tokenizer", type=Path, help="folder; trained on the pairs if left out")
    parser.add_argument("--steps", type=int, default=9)
    return parser


def prepare(args: argparse.Namespace, folder: Path, rows: int) -> None:
    """Write data, tokenizer and model to ``folder``."""
    command = [args.python, "-m", "benchmarks.dpo_data", str(folder), str(rows)]
    for option in ("pairs", "tokenizer"):
        value = getattr(args, option)
        command += [f"--{option}", str(value.resolve())] if value else []
    subprocess.run(command, cwd=ROOT, check=True)
