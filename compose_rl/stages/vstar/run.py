"""Answers of the reference to every prompt, and what they say of its optimal value."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from compose_rl.errors import UserError
from compose_rl.stages.job import Job, Result, main
from compose_rl.stages.online_checks import longest_prompt
from compose_rl.stages.vstar.spec import SPEC
from compose_rl.training.document import check_vocabulary
from compose_rl.training.harness import check_precision

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["run"]

_AT_ONCE = 64
"""Prompts that are answered together, and scored together."""


def run(job: Job) -> Result:
    """Write ``vstar.safetensors``.

    Raises:
        UserError: the model does not know the data's tokens, a reward fails too often, or for all answers to
            a prompt.
    """
    from safetensors.torch import save_file

    check_vocabulary(job.model_path("model"), int(job.inputs["prompts"].info["vocab_size"]), "model")
    rewards, kept = _rewards(job)
    values = _values(job, rewards, kept)
    save_file({"vstar": values, "answers": kept.sum(1).long()}, job.output("vstar") / "vstar.safetensors")
    metrics = {"vstar": float(values.mean()), "reward": float(rewards[kept].mean())}
    return Result(metrics=metrics, info={"samples": len(values), "beta": job.config.beta})


def _values(job: Job, rewards: Tensor, kept: Tensor) -> Tensor:
    from compose_rl.core.advantages import optimal_value

    values = optimal_value(rewards, job.config.beta, kept.float())
    missing = values.isnan().nonzero().flatten().tolist()
    if missing:
        raise UserError(
            f"vstar: the rewards of all {job.config.answers} answers to prompt {missing[0]} failed"
            f" ({len(missing)} prompts in all); mend the reward, or raise 'answers'"
        )
    return values


def _rewards(job: Job) -> tuple[Tensor, Tensor]:
    """Rewards float32 [prompts, answers], and bool of the same shape: which are known."""
    import torch

    from compose_rl.models.weights import full_weights
    from compose_rl.rollouts.types import Request
    from compose_rl.training.online.collect import rewarded_samples
    from compose_rl.training.online.parts import make_rewards, sampling_of

    variables = job.config.variables()
    with job.progress.phase("load the reference"):
        reference = _Reference(job)
        sampling = sampling_of(variables, reference)
        generator = _generator(job, reference)
        given = job.model_path("reward_model") if "reward_model" in job.inputs else None
        judge = make_rewards(variables, reference.tokenizer, reward_model=given)
    prompts = reference.prompts(job)
    if generator.shared:  # servers that run already may have other weights
        generator.push(full_weights(reference.model), 0)
    each = job.config.answers
    rewards = torch.zeros(len(prompts), each)
    kept = torch.zeros(len(prompts), each, dtype=torch.bool)
    try:
        with job.progress.phase("answers", total=len(prompts) * each, unit="answers") as phase:
            for start in range(0, len(prompts), _AT_ONCE):
                asked = prompts[start : start + _AT_ONCE]
                requests = [Request(prompt.tokens, _seeds(job, prompt.index)) for prompt in asked]
                completions = generator.generate(requests, sampling, phase.advance)
                scored = judge.score(rewarded_samples(asked, completions, reference.tokenizer))
                rows = torch.tensor([prompt.index for prompt in asked])
                rewards[rows] = scored.totals.view(-1, each)
                kept[rows] = ~scored.lost.view(-1, each)
    finally:
        generator.close()
        judge.close()
    return rewards, kept


def _seeds(job: Job, index: int) -> tuple[int, ...]:
    from compose_rl.rollouts.seeds import answer_seed

    each = job.config.answers
    return tuple(answer_seed(job.config.seed, 0, index * each + number) for number in range(each))


class _Reference:
    """The model with its tokenizer."""

    def __init__(self, job: Job) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = job.model_path("model")
        code = job.config.trust_remote_code
        device = "cuda" if torch.cuda.is_available() else "cpu"
        check_precision(job.config.precision)
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, torch_dtype=torch.float32, trust_remote_code=code, use_safetensors=True
        ).to(device)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=code)

    def prompts(self, job: Job) -> Any:
        """All prompts of the training split, in the data's order."""
        from compose_rl.config.data import PromptDataset, PromptLoaderConfig
        from compose_rl.data.prompts import PromptSource

        info = job.inputs["prompts"].info
        longest = longest_prompt(info)
        dataset = PromptDataset(
            local=str(job.input("prompts", "train")),
            max_seq_len=longest + job.config.max_gen_len,
            max_gen_len=job.config.max_gen_len,
            shuffle=False,
        )
        known = longest if info["dataset_type"] != "messages" else None  # those are tokenized on the fly
        source = PromptSource(PromptLoaderConfig(dataset=dataset, longest=known), self.tokenizer)
        return source.take(len(source))


def _generator(job: Job, reference: _Reference) -> Any:
    import torch

    from compose_rl.rollouts.engines import make_generator

    return make_generator(
        job.config.engine,
        reference.model,
        Path(job.model_path("model")),
        logs=job.scratch,
        rows=job.config.device_generate_batch_size,
        dtype=torch.bfloat16 if job.config.precision == "amp_bf16" else None,
        say=job.progress.say,
    )


if __name__ == "__main__":
    main(SPEC, run)
