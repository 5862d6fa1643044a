"""The other side of the GRPO benchmark: TRL's GRPOTrainer, in its own environment, an iteration at a time."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from benchmarks.grpo_reward import REWARDS
from benchmarks.trl.turns import Turns, versions
from benchmarks.worker import Channel, resident_mib


def prompt_ids(tokenizer: Any, prompt: list[dict[str, str]]) -> list[int]:
    """A prompt's tokens, as TRL makes them."""
    return tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=False)


def main() -> None:
    imports = resident_mib()
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    for name in ("prompts", "generations", "new-tokens", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("learning-rate", "kl-coef"):
        parser.add_argument(f"--{name}", type=float, required=True)
    parser.add_argument("--reward", choices=list(REWARDS), default="vowels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for each iteration's answers and the last weights")
    args = parser.parse_args()
    channel = Channel()
    torch.set_num_threads(args.threads)
    with (args.folder / "pairs.jsonl").open() as lines:
        rows = [json.loads(line) for line in lines]
    config = GRPOConfig(
        output_dir=str(args.folder / "trl"),
        per_device_train_batch_size=args.prompts * args.generations,
        num_generations=args.generations,
        max_completion_length=args.new_tokens,
        num_train_epochs=1,
        learning_rate=args.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=0.0,
        optim="adamw_torch_fused",
        beta=args.kl_coef,
        temperature=1.0,
        loss_type="grpo",
        shuffle_dataset=False,
        seed=args.seed,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(args.folder / "tokenizer")
    for row in rows:
        if row["prompt_ids"] != prompt_ids(tokenizer, row["prompt"]):
            raise SystemExit("TRL tokenizes a prompt differently: the two sides would do different work")
    reward = REWARDS[args.reward]

    def rewards(
        prompts: list[Any], completions: list[Any], completion_ids: list[list[int]], **_: Any
    ) -> list[float]:
        if args.keep:
            with (args.keep / "answers.jsonl").open("a") as lines:
                lines.write(json.dumps(completion_ids) + "\n")
        pairs = zip(prompts, completions, strict=True)
        return [reward(prompt[0]["content"], answer[0]["content"]) for prompt, answer in pairs]

    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(args.folder / "model", dtype=torch.float32),
        reward_funcs=rewards,
        args=config,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in rows]),
        callbacks=[Turns(channel, imports, {"loss": "loss", "reward": "reward"})],
    )
    channel.send(ready=True, **versions())
    try:
        trainer.train()
    finally:  # the other process may end it
        if args.keep:
            trainer.save_model(str(args.keep / "model"))


if __name__ == "__main__":
    main()
