"""Export: from a training stage's checkpoint to a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import torch

from compose_rl.errors import UserError
from compose_rl.models.checkpoint import find_checkpoint, read_weights
from compose_rl.models.critic import without_critic
from compose_rl.models.description import DESCRIPTION
from compose_rl.models.hf_export import (
    AUTO_CLASSES,
    compare,
    compare_adapter,
    read_adapter,
    rebuild,
    write_adapter,
    write_model,
)
from compose_rl.stages.export.spec import SPEC
from compose_rl.stages.job import Job, Result, main
from compose_rl.stages.sources import local_model
from compose_rl.store.lineage import read_manifest
from compose_rl.store.manifest import Manifest

__all__ = ["run"]


def run(job: Job) -> Result:
    """Write the model and read it back; nothing is taken for a model that was not compared."""
    config, checkpoint = job.config, job.inputs["checkpoint"]
    model_class = checkpoint.info["model_class"]
    auto, dtype = AUTO_CLASSES[model_class], getattr(torch, config.dtype)
    source, folder = job.input("checkpoint", "checkpoint"), job.output("model")
    description = source / DESCRIPTION
    if not description.is_dir():
        raise UserError(f"{description}: not there; run stage '{checkpoint.stage}' again")
    with job.progress.phase("read checkpoint"):
        weights = read_weights(find_checkpoint(source))
        policy = without_critic(weights)
        model = rebuild(description, policy, auto, lambda: _base(checkpoint))
    if len(policy) < len(weights):
        job.progress.say(f"the critic ({len(weights) - len(policy)} tensors) is left out")
    adapted = hasattr(model, "peft_config")
    if adapted and not config.merge_adapter:
        with job.progress.phase("write adapter"):
            write_adapter(model, description, folder, dtype=dtype, base=_base_name(checkpoint))
        with job.progress.phase("read back and compare"):
            compare_adapter(model, read_adapter(folder, description, _base(checkpoint), auto, dtype=dtype))
        return Result(metrics={}, info=_info(model, f"{model_class}_adapter", config.dtype))
    if adapted:
        model = model.merge_and_unload()
    with job.progress.phase("write"):
        write_model(model, description, folder, dtype=dtype, max_shard_size=config.max_shard_size)
    with job.progress.phase("read back and compare"):
        compare(model, auto.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True))
    return Result(metrics={}, info=_info(model, model_class, config.dtype))


def _base(checkpoint: Manifest) -> Path:
    """The folder of the model that training started from."""
    return local_model(read_manifest(checkpoint.inputs["model"].uri))


def _base_name(checkpoint: Manifest) -> str:
    """What an adapter calls the model it belongs to: a hub id or a place."""
    manifest = read_manifest(checkpoint.inputs["model"].uri)
    return str(manifest.info["uri"]) if manifest.stage == "resolve" else manifest.output("model").uri


def _info(model: torch.nn.Module, model_class: str, dtype: str) -> dict[str, str | int]:
    return {
        "model_class": model_class,
        "dtype": dtype,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocab_size": int(model.config.vocab_size),
    }


if __name__ == "__main__":
    main(SPEC, run)
