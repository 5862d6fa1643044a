"""Whether a GRPO update here is TRL's: ours repeats TRL's iterations on TRL's own answers, and the weights
that come out are compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.grpo_ours import Iterations
from benchmarks.sides import ROOT, Side, common_options
from compose_rl.rollouts.types import Completion

_ITERATION = {
    "prompts": 8,
    "generations": 8,
    "new_tokens": 24,
    "learning_rate": 1e-4,
    "kl_coef": 0.04,
    "reward": "vowels",
    "seed": 0,
}
_MOST = 0.01
"""Of the way that the weights went. What Adam makes of a gradient that is next to nothing is rounding."""


class Repeated(Iterations):
    """Iterations whose answers are given."""

    def __init__(self, args: argparse.Namespace, answers: list[list[list[int]]]) -> None:
        super().__init__(args)
        self.given = answers

    def answers(self) -> list[list[Completion]]:
        each = self.args.generations
        every = [
            Completion(tuple(tokens), (0.0,) * len(tokens), tokens[-1] in self.sampling.stop, 0)
            for tokens in self.given[self.done]
        ]
        return [every[first : first + each] for first in range(0, len(every), each)]


def weights(folder: Path) -> torch.Tensor:
    """A model's weights, one after the other."""
    tensors = load_file(folder / "model.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def parse() -> argparse.Namespace:
    parser = common_options("Whether a GRPO update here is TRL's.")
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--fine-tuning-steps", type=int, default=20)
    return parser.parse_args()


def run_trl(args: argparse.Namespace, folder: Path, keep: Path) -> None:
    """TRL's iterations; what they leave is in ``keep``."""
    keep.mkdir()
    flags = [x for name, value in _ITERATION.items() for x in (f"--{name.replace('_', '-')}", str(value))]
    command = [args.trl_python, "-m", "benchmarks.trl.grpo_trl", str(folder), *flags]
    trl = Side("trl", [*command, "--threads", str(args.threads), "--keep", str(keep)], args.threads)
    for _ in range(args.iterations):
        trl.step()
    trl.close()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = ["--steps", str(args.fine_tuning_steps), "--seeds", "1", "--threads", str(args.threads)]
        sizes += ["--prompts", str(args.iterations * _ITERATION["prompts"])]
        data = [args.python, "-m", "benchmarks.grpo_curve_data", str(folder), *sizes]
        subprocess.run(data, cwd=ROOT, check=True)
        run_trl(args, folder / "0", keep := folder / "trl")
        answers = [json.loads(line) for line in (keep / "answers.jsonl").read_text().splitlines()]
        ours = Repeated(argparse.Namespace(folder=folder / "0", **_ITERATION), answers)
        for _ in range(args.iterations):
            ours.step()
        ours.model.save_pretrained(folder / "ours")
        start, trl, own = (weights(folder / part) for part in ("model", "trl/model", "ours"))
    share = ((own - trl).norm() / (trl - start).norm()).item()
    print(f"after {args.iterations} iterations the weights differ by {share:.1e} of the way that TRL's went")
    if share > _MOST:
        raise SystemExit(f"more than {_MOST}: the two are not the same algorithm")


if __name__ == "__main__":
    main()
