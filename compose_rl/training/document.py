"""From a stage's configuration and inputs to the document that LLM Foundry runs. Imports nothing heavy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compose_rl.config.training import TrainingConfig
from compose_rl.errors import UserError
from compose_rl.stages.job import Job

__all__ = ["check_vocabulary", "training_document"]


def training_document(job: Job, *, slot: str = "data", length: int | None = None) -> dict[str, Any]:
    """The LLM Foundry document of ``job``: its configuration with paths, data and callbacks filled in.

    Args:
        slot: the input that has the data.
        length: tokens of a sample where the document does not say; by default the data's own limit.

    Raises:
        UserError: the model's vocabulary is smaller than that of the tokenizer of the data.
    """
    config: TrainingConfig = job.config
    data = job.inputs[slot]
    model = job.model_path("model")
    check_vocabulary(model, int(data.info["vocab_size"]), "model")
    length = config.max_seq_len or length or int(data.info["max_length"])
    document = config.document()
    document["max_seq_len"] = length
    document["model"]["pretrained_model_name_or_path"] = str(model)
    kwargs = {"model_max_length": length, "trust_remote_code": config.model.trust_remote_code}
    document["tokenizer"] = {"name": str(model), "kwargs": kwargs | config.tokenizer.get("kwargs", {})}
    document["run_name"] = config.run_name or f"{job.spec.name}-{job.key[:12]}"
    _fill_data(document, job, slot, length)
    _fill_callbacks(document, job, config)
    return document


def check_vocabulary(model: Path, tokens: int, slot: str) -> int:
    """The model's vocabulary size, at least ``tokens``.

    Raises:
        UserError: the model has fewer embeddings than the data's tokenizer has tokens, or no config.json.
    """
    path = model / "config.json"
    try:
        size = int(json.loads(path.read_text())["vocab_size"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: no vocab_size to be read ({error!r}); give a Hugging Face model folder"
        ) from None
    if size < tokens:
        raise UserError(
            f"input '{slot}': the model's vocabulary has {size} tokens and the data's tokenizer {tokens};"
            " tokenize with this model's tokenizer"
        )
    return size


def _fill_data(document: dict[str, Any], job: Job, slot: str, length: int) -> None:
    samples = job.inputs[slot].info["samples"]
    for loader, split in (("train_loader", "train"), ("eval_loader", "validation")):
        if loader not in document:
            continue
        if split == "validation" and not samples.get(split):
            del document[loader]
            continue
        dataset = document[loader].setdefault("dataset", {})
        dataset |= _shards(job, slot, split)
        dataset.setdefault("max_seq_len", length)
        dataset.setdefault("shuffle_seed", document["seed"])


def _shards(job: Job, slot: str, split: str) -> dict[str, Any]:
    """Where a dataset lies: in a folder, checked now; in S3, a shard fetched and checked when needed."""
    output = job.inputs[slot].output(split)
    if "://" not in output.uri:
        return {"local": str(job.input(slot, split))}
    return {
        "remote": output.uri,
        "local": str(job.scratch / "shards" / split),
        "checksums": {file.path: file.sha256 for file in output.files},
    }


def _fill_callbacks(document: dict[str, Any], job: Job, config: TrainingConfig) -> None:
    local = job.checkpoints if "://" not in job.checkpoints else str(job.work / "checkpoints")
    document["callbacks"] = document.get("callbacks", {}) | {
        "finite_loss": {},
        "keep_rng": {},
        "stage_checkpoints": {
            "uri": job.checkpoints,
            "folder": local,
            "interval": config.save_interval,
            "keep": config.save_num_checkpoints_to_keep,
        },
        "stage_progress": {"prefix": job.spec.name},
    }
    # The stage saves by its own callback, and its result when training is over.
    del document["save_interval"], document["save_num_checkpoints_to_keep"]
    document["loggers"] = document.get("loggers", {}) | {
        "curves": {"path": str(job.output("curves") / "curves.jsonl")}
    }
