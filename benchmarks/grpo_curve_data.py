"""Initial model and prompts of the benchmark of rewards: the demo's small Llama, fine-tuned until it answers
requests for lists, half of the time in alphabetical order.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from compose_rl.core.packing import Packed, pack
from compose_rl.demo.language import Request, instructions, requests
from compose_rl.demo.model import build_model, build_tokenizer
from compose_rl.models.policy import make_policy

__all__ = ["MODEL", "TOKENIZER"]

MODEL, TOKENIZER = "model", "tokenizer"
_BATCH = 32
_RATE = 2e-3
_WARMUP = 0.08
"""Share of the steps."""


def prompt_row(tokenizer: Any, text: str) -> dict[str, Any]:
    """A prompt as both sides read it."""
    prompt = [{"role": "user", "content": text}]
    return {"prompt": prompt, "prompt_ids": tokenizer.apply_chat_template(prompt, add_generation_prompt=True)}


def batches(tokenizer: Any, source: Iterator[Request], steps: int) -> Iterator[Packed]:
    """Packed batches of requests and answers."""
    rows = instructions(source, random.Random(0), steps * _BATCH)
    while batch := list(islice(rows, _BATCH)):
        parts = [
            (
                prompt_row(tokenizer, row["prompt"])["prompt_ids"],
                tokenizer(row["response"])["input_ids"] + [tokenizer.eos_token_id],
            )
            for row in batch
        ]
        tokens = torch.tensor([token for row in parts for part in row for token in part])
        yield pack(tokens, torch.tensor([[len(part) for part in row] for row in parts]))


def fine_tune(model: torch.nn.Module, data: Iterator[Packed], steps: int) -> float:
    """Maximise the answers' mean log-probability; the last batch's loss."""
    policy = make_policy(model).train()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=_RATE, weight_decay=0.0, fused=True)

    def rate(step: int) -> float:
        warmup = max(1.0, _WARMUP * steps)
        return min((step + 1) / warmup, 0.51 + 0.49 * math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    loss = torch.tensor(math.nan)
    for packed in data:
        loss = -policy(packed=packed).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    for name in ("steps", "seeds", "prompts", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed=0)
    source = requests(random.Random(0))  # no request twice
    loss = fine_tune(model, batches(tokenizer, source, args.steps), args.steps)
    print(f"fine-tuned for {args.steps} steps to a loss of {loss:.3f}", flush=True)
    model.save_pretrained(args.folder / MODEL)
    tokenizer.save_pretrained(args.folder / TOKENIZER)
    for seed in range(args.seeds):
        own = args.folder / str(seed)
        own.mkdir()
        for name in (MODEL, TOKENIZER):
            (own / name).symlink_to(args.folder.resolve() / name)
        rows = (prompt_row(tokenizer, request.text) for request in islice(source, args.prompts))
        (own / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
