"""Run a training stage through LLM Foundry: document in, weights and curves out."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from compose_rl.config.training import TrainingConfig
from compose_rl.errors import UserError
from compose_rl.stages.job import Job, Result
from compose_rl.stages.watch import heed_signals
from compose_rl.training.checkpoints import joined, newest_whole
from compose_rl.training.document import training_document
from compose_rl.training.gloo import average_on_cpu
from compose_rl.training.quiet import quiet_libraries

if TYPE_CHECKING:
    from composer import Trainer

__all__ = ["WEIGHTS_NAME", "check_precision", "train_stage"]

WEIGHTS_NAME = "model.pt"
"""The whole model's weights in the output ``checkpoint``: a Composer checkpoint without optimizer."""


def train_stage(
    job: Job,
    *,
    model_class: str,
    amend: Callable[[dict[str, Any]], None] | None = None,
    slot: str = "data",
    length: int | None = None,
    **info: Any,
) -> Result:
    """Train as ``job.config`` says and fill the outputs ``checkpoint``, ``curves`` and ``logs``.

    Continues from the newest whole training state of an earlier attempt at the same key; the weights are then
    those of a run that was never interrupted.

    Args:
        amend: fills in what only this stage knows, in the document for LLM Foundry.
        model_class: goes into the manifest; says what ``export`` makes of the weights.
        slot, length: as of :func:`compose_rl.training.document.training_document`.
        info: more of the manifest's ``info``.

    Raises:
        UserError: the machine does not fit the document, or the loss became non-finite.
    """
    document = training_document(job, slot=slot, length=length)
    if amend is not None:
        amend(document)
    _check_machine(job.config)
    _resume(document, job)
    logs = job.output("logs")
    _write_resolved(document, logs)
    with job.leave.ends_itself():  # StageCheckpoints sees to it
        trainer = _train(document, job)
        try:
            _save_weights(trainer, job)
            return _result(trainer, job, {"model_class": model_class, **info})
        finally:
            trainer.close()


def _check_machine(config: TrainingConfig) -> None:
    check_precision(config.precision)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if config.global_train_batch_size % processes:
        raise UserError(
            f"global_train_batch_size={config.global_train_batch_size} cannot be shared by {processes}"
            " processes; make it a multiple of their number"
        )


def check_precision(precision: str) -> None:
    """Raises UserError where this machine cannot train or run a model in ``precision``."""
    import torch

    if precision != "fp32" and not torch.cuda.is_available():
        raise UserError(f"precision='{precision}' needs a GPU and there is none; set precision: fp32")


def _resume(document: dict[str, Any], job: Job) -> None:
    """Load the newest whole state, in the form it has; new ones are saved in the form of the document."""
    fsdp = document.get("fsdp_config")
    form = "full" if fsdp is None else fsdp.setdefault("state_dict_type", "full")
    document["callbacks"]["stage_checkpoints"]["form"] = form
    folder = job.scratch / "resume"
    found = newest_whole(job.earlier_checkpoints(), folder, job.progress.say)
    if found is None:
        return
    # LLM Foundry does without FSDP in a single process.
    if found.is_dir() and (fsdp is None or int(os.environ.get("WORLD_SIZE", "1")) == 1):
        found = joined(found, folder / "joined.pt")
    if fsdp is not None:
        fsdp["state_dict_type"] = "sharded" if found.is_dir() else "full"
    document["load_path"] = str(found)


def _train(document: dict[str, Any], job: Job) -> Trainer:
    # Composer chooses between FSDP 1, which needs a GPU, and FSDP 2 by this variable.
    os.environ.setdefault("FSDP_VERSION", "2")
    # W&B 0.18 asks its server for every table, offline too, and without a network waits for ever.
    os.environ.setdefault("WANDB_ALLOW_OFFLINE_ARTIFACTS", "false")
    # Composer's name for what torchrun calls the rank of the group.
    os.environ.setdefault("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
    quiet_libraries()
    with job.progress.phase("load LLM Foundry"):
        from llmfoundry.command_utils.train import train
        from omegaconf import OmegaConf
    heed_signals()
    if "fsdp_config" in document:
        average_on_cpu()
    return train(OmegaConf.create(document))


def _write_resolved(document: dict[str, Any], logs: Any) -> None:
    """Keep the document as it is run, so that a run can be repeated with ``llmfoundry train``."""
    import yaml

    if int(os.environ.get("RANK", "0")) == 0:
        (logs / "train.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


def _save_weights(trainer: Trainer, job: Job) -> None:
    from compose_rl.models.description import DESCRIPTION, write_description
    from compose_rl.training.unwrapped import composer_model

    folder = job.output("checkpoint")
    if trainer.state.fsdp_config is not None:
        # However training state is saved: rank 0 uploads the result, and has no other node's shards.
        trainer.state.fsdp_config.state_dict_type = "full"
    with job.progress.phase("save weights"):
        trainer.save_checkpoint(str(folder / WEIGHTS_NAME), weights_only=True)
        if job.rank == 0:
            model = composer_model(trainer.state).model
            write_description(model, job.model_path("model"), folder / DESCRIPTION)


def _result(trainer: Trainer, job: Job, info: dict[str, Any]) -> Result:
    from compose_rl.training.callbacks.curves import CurvesLogger
    from compose_rl.training.unwrapped import composer_model

    curves = next(c for c in trainer.state.callbacks if isinstance(c, CurvesLogger))
    steps = int(trainer.state.timestamp.batch)
    config = composer_model(trainer.state).config
    return Result(
        metrics=dict(curves.last),
        info={"steps": steps, "vocab_size": int(config.vocab_size), **info},
    )
