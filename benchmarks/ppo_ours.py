"""One side of the PPO benchmark: an iteration of this project's parts, without Composer's trainer around
them, and the matrix products it cannot avoid.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.dpo_ours import products_seconds
from benchmarks.ppo_options import CLIP, GAMMA, LAMBDA, VALUE_WEIGHT, add_options, checked_rows, rows
from benchmarks.worker import Channel, peak_mib, reset_peak, resident_mib
from compose_rl.config.online_rl import OnlineRLSettings, OnlineVariables
from compose_rl.core.packing import Packed, pack
from compose_rl.data.experience import Experience
from compose_rl.data.prompts import Prompt
from compose_rl.models.critic import load_critic
from compose_rl.models.online import OnlineRL
from compose_rl.models.policy import make_policy
from compose_rl.rollouts.hf import HFGenerator, evaluating
from compose_rl.rollouts.seeds import answer_seed
from compose_rl.rollouts.types import Completion, Request, Sampling
from compose_rl.training.online.answers import Answers, answered
from compose_rl.training.online.collect import rewarded_samples
from compose_rl.training.online.experience import build_experience, needs_of
from compose_rl.training.online.parts import make_rewards


class ActorCritic(OnlineRL):
    """Online RL's forward and losses, of a policy that carries its critic."""

    has_critic = True

    def __init__(self, model: Any, settings: OnlineRLSettings) -> None:
        self.model, self.settings, self.temperature = model, settings, 1.0


class Iterations:
    """PPO: prompts, answers, rewards, the reference's log-probs, values, updates."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, folder = args, args.folder
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        self.policy = self._policy().train()
        self.policy.critic = load_critic(
            str(folder / "critic"),
            dropout=0.0,
            packed=True,
            pretrained=True,
            vocabulary=self.policy.config.vocab_size,
        )
        self.reference = self._policy().eval().requires_grad_(False)
        self.generator = HFGenerator(self.policy, rows=args.prompts)
        self.sampling = Sampling(max_new_tokens=args.new_tokens, temperature=1.0, stop=())
        self.prompts = [
            Prompt(index, tuple(row["prompt_ids"]), row["prompt"][0]["content"], {})
            for index, row in enumerate(rows(folder))
        ]
        self.variables = _variables(args)
        settings = OnlineRLSettings(
            loss_type="ppo",
            loss_aggregation="token_mean",
            policy_clip_ratio=CLIP,
            value_clip_range=CLIP,
            value_loss_weight=VALUE_WEIGHT,
            compute_kl_loss=False,
            kl_estimator="k1",
            joint_actor_critic=False,
        )
        self.trained = ActorCritic(self.policy, settings)
        self.rewards = make_rewards(self.variables, self.tokenizer, reward_model=folder / "reward")
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(), lr=args.learning_rate, weight_decay=0.0, fused=True
        )
        self.done = 0

    def _policy(self) -> Any:
        folder = self.args.folder / "model"
        return make_policy(AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32))

    def step(self) -> dict[str, float]:
        marks, cpu = [time.perf_counter()], time.process_time()

        def passed() -> float:
            marks.append(time.perf_counter())
            return marks[-1] - marks[-2]

        prompts, completions = self.generate()
        figures = {"generate": passed()}
        answers = self.judged(prompts, completions)
        figures["score"] = passed()
        measured = self.measured(packed_answers(prompts, completions))
        experience, _ = build_experience(
            answers,
            measured,
            self.trained.settings,
            self.variables,
            kl_coef=self.args.kl_coef,
            vstar=None,
        )
        figures["logprobs"] = passed()
        self.update(experience)
        figures |= {"train": passed(), "cpu": time.process_time() - cpu}
        self.done += 1
        return {"seconds": marks[-1] - marks[0], "reward": answers.totals.mean().item(), **figures}

    def generate(self) -> tuple[list[Prompt], list[list[Completion]]]:
        """An iteration's prompts, and an answer to each."""
        count = self.args.prompts
        prompts = self.prompts[self.done * count : (self.done + 1) * count]
        requests = [
            Request(prompt.tokens, (answer_seed(self.args.seed, self.done, row),))
            for row, prompt in enumerate(prompts)
        ]
        return prompts, self.generator.generate(requests, self.sampling)

    def judged(self, prompts: list[Prompt], completions: list[list[Completion]]) -> Answers:
        samples = rewarded_samples(prompts, completions, self.tokenizer)
        texts = [sample.answer for sample in samples]
        return Answers(answered(prompts, completions, texts, self.rewards.score(samples)))

    def measured(self, packed: Packed) -> dict[str, torch.Tensor]:
        """What the update needs to know of the answers beforehand, float32 [A]."""
        needs = needs_of(self.trained.settings, self.variables, unmoved=False)
        with evaluating(self.policy):
            figures = self.policy(packed=packed, want=needs.of_policy)
        found = {f"old_{name}": values for name, values in figures.items()}
        with torch.no_grad():
            return found | {"ref_logps": self.reference(packed=packed)}

    def update(self, experience: Experience) -> None:
        size = len(experience) // self.args.minibatches
        for epoch in range(self.args.epochs):
            order = experience.order(self.args.seed, self.done, epoch)
            for number in range(self.args.minibatches):
                batch = experience.minibatch(order, number, size, rank=0, world=1)
                batch = experience.weighed(batch, order, number, size)
                self.trained.loss(self.trained.forward(batch), batch)["total"].backward()
                self.optimizer.step()
                self.optimizer.zero_grad()

    def check(self) -> dict[str, list[float]]:
        """What the models say of given answers, which the other side has to say too."""
        prompts, completions = [], []
        for number, (prompt, answer) in enumerate(checked_rows(self.args.folder)):
            prompts.append(Prompt(number, tuple(prompt), "", {}))
            completions.append([Completion(tuple(answer), (0.0,) * len(answer), finished=False, version=0)])
        packed = packed_answers(prompts, completions)
        with torch.no_grad():
            figures = self.policy(packed=packed, want=("logps", "values"))
        return {
            "logps": packed.sum_per_answer(figures["logps"]).tolist(),
            "values": packed.sum_per_answer(figures["values"]).tolist(),
            "rewards": self.judged(prompts, completions).totals.tolist(),
        }


def _variables(args: argparse.Namespace) -> OnlineVariables:
    return OnlineVariables.model_validate(
        {
            "max_gen_len": args.new_tokens,
            "gamma": GAMMA,
            "lambda_gae": LAMBDA,
            "num_unique_prompts_per_iter": args.prompts,
            "num_batches_per_update": args.minibatches,
            "epoch_per_iteration": args.epochs,
            "kl_controller": {"init_kl_coef": args.kl_coef},
            "old_logprobs": args.old_logprobs,
        }
    )


def packed_answers(prompts: list[Prompt], completions: list[list[Completion]]) -> Packed:
    """Each prompt with its answer."""
    parts = [[prompt.tokens, one.tokens] for prompt, (one,) in zip(prompts, completions, strict=True)]
    tokens = torch.tensor([token for row in parts for part in row for token in part])
    return pack(tokens, torch.tensor([[len(part) for part in row] for row in parts]))


class Floor:
    """An iteration's matrix products and nothing else: decoding token by token, the forwards of reference,
    critic and reward model, forward and backward of policy and critic."""

    def __init__(self, iterations: Iterations) -> None:
        args = self.args = iterations.args
        reference = iterations.reference
        head = reference.get_output_embeddings()
        linear = [m for m in reference.modules() if isinstance(m, torch.nn.Linear) and m is not head]
        self.body = [(m.in_features, m.out_features) for m in linear]
        self.head = (head.in_features, head.out_features)
        packed = packed_answers(*iterations.generate())
        self.total, self.targets = packed.input_ids.numel(), packed.targets.numel()
        self.policies = 2 if args.old_logprobs == "trainer" else 1

    def step(self) -> dict[str, float]:
        return {"seconds": self._generate() + self._forwards() + self.args.epochs * self._update()}

    def _generate(self) -> float:
        prefill = self._bodies(self.total - self.targets)
        token = self._bodies(self.args.prompts) + products_seconds(
            self.args.prompts, *self.head, backward=False
        )
        return prefill + self.args.new_tokens * token

    def _forwards(self) -> float:
        """Reference (and policy, where the trainer gives the old log-probs), critic and reward model."""
        policy = self._bodies(self.total) + products_seconds(self.targets, *self.head, backward=False)
        return self.policies * policy + 2 * self._bodies(self.total)

    def _update(self) -> float:
        bodies = 2 * self._bodies(self.total, backward=True)
        return bodies + products_seconds(self.targets, *self.head)

    def _bodies(self, count: int, *, backward: bool = False) -> float:
        return sum(products_seconds(count, *shape, backward=backward) for shape in self.body)


def main() -> None:
    imports = resident_mib()
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=["step", "floor"], required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--old-logprobs", choices=["engine", "trainer"], default="engine")
    add_options(parser)
    args = parser.parse_args()
    channel = Channel()
    torch.set_num_threads(args.threads)
    iterations = Iterations(args)
    work = iterations if args.only == "step" else Floor(iterations)
    channel.send(ready=True, check=iterations.check(), torch=torch.__version__)
    reset_peak()

    def memory() -> dict[str, float]:
        return {"imports_mib": imports, "peak_mib": peak_mib()}

    channel.serve({"step": work.step, "memory": memory})


if __name__ == "__main__":
    main()
