"""The other side of the PPO benchmark: TRL's PPOTrainer, in its own environment, an iteration at a time."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer
from trl.experimental.ppo.ppo_trainer import forward
from trl.experimental.utils import get_reward

from benchmarks.ppo_options import CLIP, GAMMA, LAMBDA, VALUE_WEIGHT, add_options, checked_rows, rows
from benchmarks.trl.turns import Turns, versions
from benchmarks.worker import Channel, reset_peak, resident_mib


class Iterations(Turns):
    """Waits for its turn before each iteration. PPOTrainer tells callbacks of an iteration's end alone, so
    the garbage collection that follows counts for the next one.
    """

    def __init__(self, channel: Channel, imports: float) -> None:
        super().__init__(channel, imports, {"reward": "objective/scores", "kl": "objective/kl"})

    def _begin(self) -> None:
        self._wait_for_turn()
        self.start, self.cpu_start = time.perf_counter(), time.process_time()

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        reset_peak()
        self._begin()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        self.figures = {name: float(logs[theirs]) for name, theirs in self.logged.items()}

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        seconds, cpu = time.perf_counter() - self.start, time.process_time() - self.cpu_start
        self.channel.send(seconds=seconds, cpu=cpu, **self.figures)
        self._begin()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """The turn that would come next has been waited for."""


def configuration(args: argparse.Namespace, iterations: int) -> PPOConfig:
    return PPOConfig(
        output_dir=str(args.folder / "trl"),
        per_device_train_batch_size=args.at_once,
        gradient_accumulation_steps=args.prompts // args.at_once,
        num_mini_batches=args.minibatches,
        local_rollout_forward_batch_size=args.at_once,
        num_ppo_epochs=args.epochs,
        total_episodes=iterations * args.prompts,
        response_length=args.new_tokens,
        stop_token=None,
        temperature=1.0,
        kl_coef=args.kl_coef,
        kl_estimator="k1",
        cliprange=CLIP,
        cliprange_value=CLIP,
        vf_coef=VALUE_WEIGHT,
        gamma=GAMMA,
        lam=LAMBDA,
        whiten_rewards=False,
        num_sample_generations=0,
        learning_rate=args.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        optim="adamw_torch_fused",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=args.seed,
    )


def make_trainer(args: argparse.Namespace, callback: Turns) -> PPOTrainer:
    tokenizer = AutoTokenizer.from_pretrained(args.folder / "tokenizer", padding_side="left")
    # A token that no model can draw: TRL takes every one that equals it for padding.
    tokenizer.add_special_tokens({"pad_token": "<|no token of the model|>"})
    prompts = Dataset.from_list([{"input_ids": row["prompt_ids"]} for row in rows(args.folder)])

    def load(kind: Any, name: str) -> Any:
        return kind.from_pretrained(args.folder / name, dtype=torch.float32)

    trainer = PPOTrainer(
        args=configuration(args, len(prompts) // args.prompts),
        processing_class=tokenizer,
        model=load(AutoModelForCausalLM, "model"),
        ref_model=load(AutoModelForCausalLM, "model"),
        reward_model=load(AutoModelForSequenceClassification, "reward"),
        value_model=load(AutoModelForSequenceClassification, "critic"),
        train_dataset=prompts,
        callbacks=[callback],
    )
    if tokenizer.pad_token_id < trainer.policy_model.config.vocab_size:
        raise SystemExit("the padding token is one of the model's: answers could be cut at it")
    # TRL's own shuffles: the other side takes the prompts in the file's order.
    trainer.dataloader = DataLoader(prompts, batch_size=args.prompts, collate_fn=trainer.data_collator)
    return trainer


@torch.no_grad()
def check(trainer: PPOTrainer, folder: Path) -> dict[str, list[float]]:
    """What the models say of given answers, by TRL's functions."""
    pad = trainer.processing_class.pad_token_id
    found: dict[str, list[float]] = {"logps": [], "values": [], "rewards": []}
    for prompt, answer in checked_rows(folder):
        # Padded as TRL pads a batch.
        whole, context = torch.tensor([[pad, pad, *prompt, *answer]]), 2 + len(prompt)
        logits = forward(trainer.policy_model, whole, pad).logits[:, context - 1 : -1]
        logps = logits.log_softmax(-1).gather(-1, whole[:, context:, None])
        values = get_reward(trainer.value_model, whole, pad, context)[0][:, context - 1 : -1]
        reward = get_reward(trainer.reward_model, whole, pad, context)[1]
        for name, value in ("logps", logps.sum()), ("values", values.sum()), ("rewards", reward):
            found[name].append(value.item())
    return found


def main() -> None:
    imports = resident_mib()
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--at-once", type=int, help="answers of a pass; by default all of a minibatch")
    add_options(parser)
    args = parser.parse_args()
    args.at_once = args.at_once or args.prompts
    if args.minibatches > 1 and args.at_once < args.prompts:
        raise SystemExit("TRL makes one update of all minibatches where it accumulates gradients")
    channel = Channel()
    torch.set_num_threads(args.threads)
    trainer = make_trainer(args, Iterations(channel, imports))
    channel.send(ready=True, check=check(trainer, args.folder), **versions())
    trainer.train()


if __name__ == "__main__":
    main()
