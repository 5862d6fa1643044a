"""Supervised fine-tuning through LLM Foundry's own causal language model."""

from __future__ import annotations

from compose_rl.stages.job import Job, Result, main
from compose_rl.stages.sft.spec import SPEC
from compose_rl.training.harness import train_stage

__all__ = ["run"]


def run(job: Job) -> Result:
    """Train; see :func:`compose_rl.training.harness.train_stage`."""
    return train_stage(job, model_class="causal_lm", peft=job.config.model.peft_config is not None)


if __name__ == "__main__":
    main(SPEC, run)
