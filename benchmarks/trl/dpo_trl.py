"""The other side of the DPO benchmark: TRL's DPOTrainer, in its own environment, a step at a time."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from benchmarks.trl.turns import Turns, versions
from benchmarks.worker import Channel, resident_mib


def main() -> None:
    imports = resident_mib()
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--max-length", type=int, required=True)
    for name, kind in ("pairs-per-step", int), ("learning-rate", float), ("beta", float), ("threads", int):
        parser.add_argument(f"--{name}", type=kind, required=True)
    args = parser.parse_args()
    channel = Channel()
    torch.set_num_threads(args.threads)
    with (args.folder / "pairs.jsonl").open() as lines:
        rows = [json.loads(line) for line in lines]
    config = DPOConfig(
        output_dir=str(args.folder / "trl"),
        per_device_train_batch_size=args.pairs_per_step,
        num_train_epochs=1,
        learning_rate=args.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=0.0,
        optim="adamw_torch_fused",
        beta=args.beta,
        max_length=args.max_length,
        precompute_ref_log_probs=True,
        train_sampling_strategy="sequential",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(args.folder / "model", dtype=torch.float32),
        args=config,
        processing_class=AutoTokenizer.from_pretrained(args.folder / "tokenizer"),
        train_dataset=Dataset.from_list(
            [{k: row[k] for k in ("prompt", "chosen", "rejected")} for row in rows]
        ),
        callbacks=[Turns(channel, imports, {"loss": "loss"})],
    )
    for ours, theirs in zip(rows, trainer.train_dataset, strict=True):
        for key in ("prompt_ids", "chosen_ids", "rejected_ids"):
            if ours[key] != theirs[key]:
                raise SystemExit(f"TRL tokenizes {key} differently: the two sides would do different work")
    channel.send(ready=True, **versions())
    trainer.train()


if __name__ == "__main__":
    main()
