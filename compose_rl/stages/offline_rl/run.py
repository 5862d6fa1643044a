"""Offline preference optimisation through LLM Foundry."""

from __future__ import annotations

from typing import Any

from compose_rl.stages.job import Job, Result, main
from compose_rl.stages.offline_rl.spec import SPEC, needs_mismatched
from compose_rl.training.harness import train_stage

__all__ = ["run"]

_LOADERS = {"preference": "pairwise_preference", "unpaired_preference": "unpaired_preference"}


def run(job: Job) -> Result:
    """Train; see :func:`compose_rl.training.harness.train_stage`."""
    model = job.config.model

    def amend(document: dict[str, Any]) -> None:
        for name in ("train_loader", "eval_loader"):
            if name in document:
                _amend_loader(document[name], job)
        # load_path is only ever training state here: the policy starts from the 'model' input.
        document["callbacks"]["offline_rl"] = {"use_load_path": False}

    return train_stage(
        job,
        amend=amend,
        model_class="causal_lm",
        peft=model.peft_config is not None,
        loss_type=model.loss_type,
    )


def _amend_loader(loader: dict[str, Any], job: Job) -> None:
    loader["name"] = _LOADERS[job.inputs["data"].info["dataset_type"]]
    loader["kl_pairs"] = needs_mismatched(job.config.model)
    if "reference" in job.inputs:
        loader["reference"] = str(job.input("reference", "logprobs"))


if __name__ == "__main__":
    main(SPEC, run)
