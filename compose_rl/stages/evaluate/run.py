"""``evaluate`` at work: ask the models, judge their answers, report."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from compose_rl.data.encoding import load_tokenizer, tokenizer_digest
from compose_rl.errors import UserError
from compose_rl.evaluation.held_out import read_pairs, read_prompts
from compose_rl.evaluation.measures import Interval, Sides, figures, kl_figures, pair_figures
from compose_rl.evaluation.observe import HeldOut, Observation, RewardObservation, observe, observe_rewards
from compose_rl.evaluation.report import write_report
from compose_rl.evaluation.samples import Samples
from compose_rl.evaluation.table import headline, show
from compose_rl.evaluation.verifiers import load as load_verifier
from compose_rl.stages.checks import reward_model_class
from compose_rl.stages.evaluate.spec import SPEC, has_held_out
from compose_rl.stages.job import Job, Result, main


def run(job: Job) -> Result:
    """Compare the policy with the baseline."""
    held_out = _held_out(job)
    policy = observe("policy", job.model_path("policy"), job.config, held_out, job.progress)
    baseline = observe(
        "baseline", job.model_path("baseline"), job.config, held_out, job.progress, policy.answers
    )
    reward_model = _rewards(job, held_out, policy, baseline)
    samples = _samples(held_out, policy, baseline)
    metrics, judgements = _measure(job, samples, policy, baseline, reward_model)
    metrics |= {"prompts": len(held_out.prompts), "pairs": len(held_out.pairs)}
    write_report(job, metrics, samples, judgements)
    show("Evaluation", headline(metrics))
    return Result(metrics=metrics, info={"samples": len(held_out.prompts)})


def _held_out(job: Job) -> HeldOut:
    tokenizer = load_tokenizer(job.model_path("policy"))
    _check_tokenizer(job, tokenizer)
    with job.progress.phase("read held-out data"):
        found = HeldOut(
            pairs=read_pairs(job.input("preferences", "validation"), job.config.num_pairs)
            if "preferences" in job.inputs
            else [],
            prompts=read_prompts(_prompt_folders(job), tokenizer, job.config.num_prompts),
            tokenizer=tokenizer,
        )
    if job.config.verifier == "gsm8k" and not all(prompt.reference for prompt in found.prompts):
        raise UserError(
            "evaluate config: verifier='gsm8k' needs known answers, and the prompts have none; "
            "tokenize them as verifiable_answers, or leave the verifier out"
        )
    return found


def _check_tokenizer(job: Job, tokenizer: PreTrainedTokenizerBase) -> None:
    own = tokenizer_digest(tokenizer)
    for name in ("preferences", "prompts", "training_prompts"):
        if name in job.inputs and job.inputs[name].info["tokenizer_sha256"] != own:
            raise UserError(
                f"evaluate: '{name}' was tokenized with another tokenizer than the policy's"
                f" ({job.inputs[name].uri}); tokenize with the policy's"
            )


def _prompt_folders(job: Job) -> list[Path]:
    """Prompts given for this stage are held out as a whole, of all others only the validation split is."""
    if "prompts" in job.inputs:
        samples = job.inputs["prompts"].info["samples"]
        return [job.input("prompts", split) for split in ("train", "validation") if samples[split]]
    held_out = has_held_out(job.inputs.get("training_prompts"))
    return [job.input("training_prompts" if held_out else "preferences", "validation")]


def _rewards(
    job: Job, held_out: HeldOut, policy: Observation, baseline: Observation
) -> RewardObservation | None:
    if "reward_model" not in job.inputs:
        return None
    model_class = reward_model_class(job.inputs["reward_model"])
    assert model_class is not None, job.key
    return observe_rewards(
        job.model_path("reward_model"),
        model_class,
        job.config,
        held_out,
        [policy.answers, baseline.answers],
        job.progress,
    )


def _samples(held_out: HeldOut, policy: Observation, baseline: Observation) -> Samples:
    def texts(tokens: list[list[int]]) -> list[str]:
        return held_out.tokenizer.batch_decode(tokens, skip_special_tokens=True)

    return Samples(
        prompts=texts([prompt.tokens for prompt in held_out.prompts]),
        references=[prompt.reference for prompt in held_out.prompts],
        policy=texts([list(answer.tokens) for answer in policy.answers]),
        baseline=texts([list(answer.tokens) for answer in baseline.answers]),
    )


def _measure(
    job: Job,
    samples: Samples,
    policy: Observation,
    baseline: Observation,
    reward_model: RewardObservation | None,
) -> tuple[dict[str, float], dict[str, Sides]]:
    config = job.config
    interval = Interval(config.confidence, config.num_resamples, config.seed)
    metrics: dict[str, float] = {}
    judgements: dict[str, Sides] = {}
    if "preferences" in job.inputs:
        metrics |= pair_figures(
            "policy", policy.chosen - baseline.chosen, policy.rejected - baseline.rejected
        )
    if reward_model is not None:
        if "preferences" in job.inputs:
            metrics |= pair_figures("reward_model", reward_model.chosen, reward_model.rejected)
        judgements["reward_model"] = Sides(*reward_model.answers)
    if config.verifier is not None:
        judgements["verifier"] = _verified(config.verifier, samples)
    metrics |= figures(judgements, interval)
    if policy.policy_answers is not None and baseline.policy_answers is not None:
        metrics |= kl_figures(policy.policy_answers, baseline.policy_answers, interval)
    for side, observation in (("policy", policy), ("baseline", baseline)):
        answers = observation.answers
        metrics[f"length/{side}"] = sum(len(answer.tokens) for answer in answers) / len(answers)
        metrics[f"truncated/{side}"] = sum(not answer.finished for answer in answers) / len(answers)
    return metrics, judgements


def _verified(name: str, samples: Samples) -> Sides:
    verify = load_verifier(name)

    def scores(answers: list[str]) -> torch.Tensor:
        rows = zip(samples.prompts, answers, samples.references, strict=True)
        return torch.tensor([float(verify(*row)) for row in rows], dtype=torch.float64)

    return Sides(policy=scores(samples.policy), baseline=scores(samples.baseline))


if __name__ == "__main__":
    main(SPEC, run)
