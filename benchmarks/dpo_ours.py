"""One side of the DPO benchmark: a plain loop over this project's packed model, and the matrix products it
cannot avoid.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from benchmarks.worker import Channel, peak_mib, reset_peak, resident_mib
from compose_rl.config.offline_rl import OfflineRLSettings
from compose_rl.core.losses import OFFLINE_LOSSES, PairLogps
from compose_rl.core.packing import Packed, pack
from compose_rl.models.policy import make_policy


def load_batches(folder: Path, pairs_per_step: int) -> list[Packed]:
    """The steps' batches, in the file's order."""
    with (folder / "pairs.jsonl").open() as lines:
        rows = [json.loads(line) for line in lines]
    batches: list[Packed] = []
    for first in range(0, len(rows), pairs_per_step):
        parts = [
            [row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]]
            for row in rows[first : first + pairs_per_step]
        ]
        tokens = torch.tensor([token for row in parts for part in row for token in part])
        batches.append(pack(tokens, torch.tensor([[len(part) for part in row] for row in parts])))
    return batches


class Steps:
    """DPO steps, the reference computed before the first."""

    def __init__(self, folder: Path, pairs_per_step: int, learning_rate: float, beta: float) -> None:
        model = AutoModelForCausalLM.from_pretrained(folder / "model", torch_dtype=torch.float32)
        self.model = make_policy(model).train()
        self.batches = load_batches(folder, pairs_per_step)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=learning_rate, weight_decay=0.0, fused=True
        )
        self.settings = OfflineRLSettings(beta=beta)
        with torch.no_grad():
            self.reference = [packed.sum_per_answer(self.model(packed=packed)) for packed in self.batches]
        self.done = 0
        reset_peak()

    def step(self) -> dict[str, float]:
        packed, reference = self.batches[self.done], self.reference[self.done]
        self.done += 1
        start = time.perf_counter()
        policy = packed.sum_per_answer(self.model(packed=packed))
        lengths = packed.answer_lengths
        pairs = PairLogps(
            policy_chosen=policy[0::2],
            policy_rejected=policy[1::2],
            ref_chosen=reference[0::2],
            ref_rejected=reference[1::2],
            chosen_length=lengths[0::2],
            rejected_length=lengths[1::2],
        )
        loss = OFFLINE_LOSSES["dpo"](pairs, self.settings).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {"seconds": time.perf_counter() - start, "loss": loss.item()}


class Floor:
    """A step's matrix products and nothing else: forward, gradient of the input, gradient of the weight."""

    def __init__(self, steps: Steps) -> None:
        head = steps.model.get_output_embeddings()
        linear = [m for m in steps.model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
        self.batches = steps.batches
        self.body = [(m.in_features, m.out_features) for m in linear]
        self.head = (head.in_features, head.out_features)
        self.done = 0

    def step(self) -> dict[str, float]:
        packed = self.batches[self.done]
        self.done += 1
        products = [(packed.input_ids.numel(), *shape) for shape in self.body]
        products.append((packed.targets.numel(), *self.head))
        return {"seconds": sum(products_seconds(*product) for product in products)}


def products_seconds(rows: int, inputs: int, outputs: int, *, backward: bool = True) -> float:
    """Seconds of a linear layer's products over ``rows`` inputs."""
    x, weight, y = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.zeros(rows, outputs)
    grad_x, grad_weight = torch.zeros_like(x), torch.zeros_like(weight)
    start = time.perf_counter()
    torch.mm(x, weight.t(), out=y)
    if backward:
        torch.mm(y, weight, out=grad_x)
        torch.mm(y.t(), x, out=grad_weight)
    return time.perf_counter() - start


def main() -> None:
    imports = resident_mib()
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=["step", "floor"], required=True)
    for name, kind in ("pairs-per-step", int), ("learning-rate", float), ("beta", float), ("threads", int):
        parser.add_argument(f"--{name}", type=kind, required=True)
    args = parser.parse_args()
    channel = Channel()
    torch.set_num_threads(args.threads)
    steps = Steps(args.folder, args.pairs_per_step, args.learning_rate, args.beta)
    work = steps if args.only == "step" else Floor(steps)
    channel.send(ready=True, torch=torch.__version__)

    def memory() -> dict[str, float]:
        return {"imports_mib": imports, "peak_mib": peak_mib()}

    channel.serve({"step": work.step, "memory": memory})


if __name__ == "__main__":
    main()
