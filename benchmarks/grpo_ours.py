"""One side of the GRPO benchmark: an iteration of this project's parts, without Composer around them, and the
matrix products it cannot avoid.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.dpo_ours import products_seconds
from benchmarks.grpo_reward import REWARDS
from benchmarks.worker import Channel, peak_mib, reset_peak, resident_mib
from compose_rl.config.online_rl import OnlineRLSettings
from compose_rl.core.advantages import group
from compose_rl.core.aggregation import token_weights
from compose_rl.core.losses.policy import POLICY_LOSSES, PolicyTokens
from compose_rl.core.packing import Packed, pack
from compose_rl.models.policy import make_policy
from compose_rl.rollouts.hf import HFGenerator
from compose_rl.rollouts.seeds import answer_seed
from compose_rl.rollouts.types import Completion, Request, Sampling


class Iterations:
    """GRPO: prompts, answers, rewards, the reference's log-probs, an update."""

    def __init__(self, args: argparse.Namespace) -> None:
        folder = args.folder
        self.args = args
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        self.model = self._policy().train()
        self.reference = self._policy().eval().requires_grad_(False)
        self.generator = HFGenerator(self.model, rows=args.prompts * args.generations)
        with (folder / "pairs.jsonl").open() as lines:
            rows = [json.loads(line) for line in lines]
        self.prompts = [tuple(row["prompt_ids"]) for row in rows]
        self.texts = [row["prompt"][0]["content"] for row in rows]
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=args.learning_rate, weight_decay=0.0, fused=True
        )
        # TRL's KL term, k3 times a ratio that is 1 but has a gradient, has the gradient of k2. TRL divides by
        # the sample's standard deviation, this project by the population's: its loss times a constant, which
        # Adam does not see, once the weight of KL has it as well.
        self.settings = OnlineRLSettings(loss_type="grpo", kl_estimator="k2")
        self.kl_coef = args.kl_coef * math.sqrt(args.generations / (args.generations - 1))
        stop = (self.tokenizer.eos_token_id,)
        self.sampling = Sampling(max_new_tokens=args.new_tokens, temperature=1.0, stop=stop)
        self.done = 0
        reset_peak()

    def _policy(self) -> torch.nn.Module:
        folder = self.args.folder / "model"
        return make_policy(AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32))

    def answers(self) -> list[list[Completion]]:
        """An iteration's answers, a list for each prompt."""
        count, each, seed = self.args.prompts, self.args.generations, self.args.seed
        first = self.done * count
        requests = [
            Request(prompt, tuple(answer_seed(seed, self.done, row * each + i) for i in range(each)))
            for row, prompt in enumerate(self.prompts[first : first + count])
        ]
        return self.generator.generate(requests, self.sampling)

    def packed(self, answers: list[list[Completion]]) -> Packed:
        """The iteration's prompts, each once for all of its answers."""
        first = self.done * self.args.prompts
        parts = [
            [self.prompts[first + row], *(answer.tokens for answer in group)]
            for row, group in enumerate(answers)
        ]
        tokens = torch.tensor([token for row in parts for part in row for token in part])
        return pack(tokens, torch.tensor([[len(part) for part in row] for row in parts]))

    def step(self) -> dict[str, float]:
        start = time.perf_counter()
        answers = self.answers()
        generated = time.perf_counter()
        packed = self.packed(answers)
        rewards = self._rewards(answers)
        with torch.no_grad():
            ref_logps = self.reference(packed=packed)
        loss = self._loss(packed, rewards, ref_logps)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1
        end = time.perf_counter()
        return {
            "seconds": end - start,
            "generate": generated - start,
            "loss": loss.item(),
            "reward": rewards.mean().item(),
        }

    def _rewards(self, answers: list[list[Completion]]) -> torch.Tensor:
        reward = REWARDS[self.args.reward]
        first = self.done * self.args.prompts
        return torch.tensor(
            [
                reward(prompt, self.tokenizer.decode(answer.tokens, skip_special_tokens=True))
                for prompt, group in zip(self.texts[first:], answers, strict=False)
                for answer in group
            ]
        )

    def _loss(self, packed: Packed, rewards: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
        count = rewards.numel()
        every = torch.ones(count)
        groups = torch.arange(count) // self.args.generations
        advantages = group(rewards, groups, every, self.settings)
        logps = self.model(packed=packed)
        tokens = PolicyTokens(
            logps=logps,
            old_logps=logps.detach(),  # the only pass over these answers
            advantages=advantages[packed.answer_ids],
            weights=token_weights(
                packed.answer_lengths, every, self.settings.aggregation, self.args.new_tokens
            ),
            answer_ids=packed.answer_ids,
            answer_weights=every,
            ref_logps=ref_logps,
            kl_coef=torch.tensor(self.kl_coef),
        )
        return POLICY_LOSSES["grpo"](tokens, self.settings).loss


class Floor:
    """An iteration's matrix products and nothing else: decoding token by token, the reference's forward, the
    update's forward and backward."""

    def __init__(self, iterations: Iterations) -> None:
        model = iterations.model
        head = model.get_output_embeddings()
        linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
        self.body = [(m.in_features, m.out_features) for m in linear]
        self.head = (head.in_features, head.out_features)
        self.new_tokens = iterations.args.new_tokens
        self.batch = iterations.packed(iterations.answers())

    def step(self) -> dict[str, float]:
        total, targets = self.batch.input_ids.numel(), self.batch.targets.numel()
        answers = self.batch.answer_lengths.numel()
        shapes = [*((total, *shape) for shape in self.body), (targets, *self.head)]
        update = sum(products_seconds(*shape) for shape in shapes)
        reference = sum(products_seconds(*shape, backward=False) for shape in shapes)
        prefill = sum(products_seconds(total - targets, *shape, backward=False) for shape in self.body)
        token = sum(products_seconds(answers, *shape, backward=False) for shape in [*self.body, self.head])
        return {"seconds": update + reference + prefill + self.new_tokens * token}


def main() -> None:
    imports = resident_mib()
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=["step", "floor"], required=True)
    for name in ("prompts", "generations", "new-tokens", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("learning-rate", "kl-coef"):
        parser.add_argument(f"--{name}", type=float, required=True)
    parser.add_argument("--reward", choices=list(REWARDS), default="vowels")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    channel = Channel()
    torch.set_num_threads(args.threads)
    iterations = Iterations(args)
    work = iterations if args.only == "step" else Floor(iterations)
    channel.send(ready=True, torch=torch.__version__)

    def memory() -> dict[str, float]:
        return {"imports_mib": imports, "peak_mib": peak_mib()}

    channel.serve({"step": work.step, "memory": memory})


if __name__ == "__main__":
    main()
