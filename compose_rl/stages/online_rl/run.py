"""Online RL through LLM Foundry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compose_rl.stages.job import Job, Result, main
from compose_rl.stages.online_checks import longest_prompt
from compose_rl.stages.online_rl.spec import SPEC
from compose_rl.training.harness import train_stage

__all__ = ["run"]

_LOADERS = {"single_prompt": "prompt", "verifiable_answers": "prompt", "messages": "messages"}


def run(job: Job) -> Result:
    """Train; see :func:`compose_rl.training.harness.train_stage`."""
    config = job.config
    data = job.inputs["prompts"].info
    samples = job.output("samples") / "samples.jsonl"

    def amend(document: dict[str, Any]) -> None:
        loader = document["train_loader"]
        loader["name"] = _LOADERS[data["dataset_type"]]
        if loader["name"] == "prompt" and data.get("longest"):  # messages are tokenized on the fly
            loader["longest"] = data["longest"]
        loader["minibatches"] = config.variables.num_batches_per_update
        loader["dataset"]["max_gen_len"] = config.variables.max_gen_len
        _amend_model(document["model"], job)
        # load_path is only ever training state here: the policy starts from the 'model' input.
        callback: dict[str, Any] = {"use_load_path": False, "samples": str(samples), "name": job.spec.name}
        callback["logs"] = str(job.output("logs"))
        if "reward_model" in job.inputs:
            callback["reward_model"] = str(job.model_path("reward_model"))
        if "vstar" in job.inputs:
            callback["vstar"] = str(job.input("vstar", "vstar") / "vstar.safetensors")
        document["callbacks"]["on_policy_rl"] = callback

    result = train_stage(
        job,
        amend=amend,
        slot="prompts",
        length=longest_prompt(data) + config.variables.max_gen_len,
        model_class="causal_lm",
        peft=config.model.peft_config is not None,
        loss_type=config.model.loss_type,
    )
    _report(job, result, samples)
    return result


def _amend_model(model: dict[str, Any], job: Job) -> None:
    if "length_normalize_policy_loss" in model:
        del model["loss_aggregation"]  # the same under its own name
    if job.config.model.has_critic and not job.config.model.joint_actor_critic:
        model["critic_path"] = str(job.model_path(_critic_start(job)))


def _critic_start(job: Job) -> str:
    """The input that a critic of its own starts from."""
    start = next((slot for slot in ("critic", "reward_model") if slot in job.inputs), "model")
    if job.inputs[start].stage != "resolve" or start == "model":
        return start
    from compose_rl.data.encoding import load_tokenizer, same_tokens

    if same_tokens(*(load_tokenizer(job.model_path(slot)) for slot in (start, "model"))):
        return start
    job.progress.say(f"'{start}' has other tokens than the policy; the critic starts from the policy")
    return "model"


def _report(job: Job, result: Result, samples: Path) -> None:
    if job.rank != 0:
        return
    from compose_rl.evaluation.online_report import write_online_report

    curves = job.output("curves") / "curves.jsonl"
    write_online_report(job.output("report"), curves, samples, dict(result.metrics))


if __name__ == "__main__":
    main(SPEC, run)
