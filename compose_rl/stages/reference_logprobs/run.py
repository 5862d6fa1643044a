"""Run the reference policy over every answer of the data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compose_rl.errors import UserError
from compose_rl.stages.job import Job, Result, main
from compose_rl.stages.reference_logprobs.spec import SPEC
from compose_rl.training.document import check_vocabulary

if TYPE_CHECKING:
    from torch import Tensor

    from compose_rl.data.shards import ShardDataset

__all__ = ["run"]

_COLUMNS = {"preference": ("chosen", "rejected"), "unpaired_preference": ("completion",)}
"""The log-probabilities of a row's answers, by name, in their order."""
_READ_AHEAD = 512
"""Samples read at once, among which microbatches are formed."""


def run(job: Job) -> Result:
    """Write ``train.safetensors`` and ``validation.safetensors``.

    Raises:
        UserError: the model does not know the data's tokens, or the precision needs a GPU.
    """
    check_vocabulary(job.model_path("model"), int(job.inputs["data"].info["vocab_size"]), "model")
    with job.progress.phase("load the reference"):
        model = _load(job)
    samples: dict[str, int] = job.inputs["data"].info["samples"]
    metrics: dict[str, float] = {}
    for split in ("train", "validation"):
        if not samples.get(split):
            continue
        columns = _split(job, split, model)
        _write(columns, job.output("logprobs") / f"{split}.safetensors")
        metrics |= {f"{split}/{name}": float(values.double().mean()) for name, values in columns.items()}
    return Result(metrics=metrics, info={"samples": samples})


def _load(job: Job) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    from compose_rl.models.policy import make_policy

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if job.config.precision != "fp32" and device == "cpu":
        raise UserError(
            f"precision='{job.config.precision}' needs a GPU and there is none; set precision: fp32"
        )
    model = AutoModelForCausalLM.from_pretrained(
        job.model_path("model"),
        torch_dtype=torch.float32,
        trust_remote_code=job.config.trust_remote_code,
        use_safetensors=True,
    )
    return make_policy(model.to(device), packed=job.config.packed).eval()


def _split(job: Job, split: str, model: Any) -> dict[str, Tensor]:
    """Log-probability sums float32 [N] by name, in dataset order."""
    import torch

    data = job.inputs["data"].info
    names = _COLUMNS[data["dataset_type"]]
    dataset = _dataset(job, split)
    found = {name: torch.empty(dataset.num_samples) for name in names}
    if job.config.mismatched:
        found["mismatched"] = torch.empty(dataset.num_samples)
    with job.progress.phase(split, total=dataset.num_samples, unit="samples") as phase, torch.no_grad():
        for batch in _microbatches(dataset, job.config.token_budget):
            index = batch["index"]
            sums = _logps(model, batch["tokens"], batch["lengths"], job.config)
            for column, name in enumerate(names):
                found[name][index] = sums[column :: len(names)]
            if job.config.mismatched:
                found["mismatched"][index] = _logps(
                    model, batch["kl_tokens"], batch["kl_lengths"], job.config
                )
            phase.advance(len(index))
    return found


def _dataset(job: Job, split: str) -> ShardDataset:
    from compose_rl.config.data import LoaderDataset
    from compose_rl.data.decode import decode_preference, decode_unpaired
    from compose_rl.data.mismatch import lend_answer
    from compose_rl.data.shards import ShardDataset

    info = job.inputs["data"].info
    decode = decode_preference if info["dataset_type"] == "preference" else decode_unpaired
    length = int(info["max_length"])
    place = LoaderDataset(local=str(job.input("data", split)), max_seq_len=length)
    pair = lend_answer(length) if job.config.mismatched else None
    return ShardDataset(place, decode, batch_size=1, pair=pair)


def _microbatches(dataset: ShardDataset, token_budget: int) -> Iterator[dict[str, Tensor]]:
    from compose_rl.core.packing import fill
    from compose_rl.data.collate import collate_ragged

    for start in range(0, dataset.num_samples, _READ_AHEAD):
        stop = min(start + _READ_AHEAD, dataset.num_samples)
        samples = [dataset[index] for index in range(start, stop)]
        costs = [sum(map(len, sample["pieces"])) for sample in samples]
        for rows in fill(costs, token_budget, balance=True):
            yield collate_ragged([samples[row] for row in rows])


def _logps(model: Any, tokens: Tensor, lengths: Tensor, config: Any) -> Tensor:
    from compose_rl.core.packing import pack

    packed = pack(tokens, lengths).to(model.device)
    with _autocast(model.device.type, config.precision):
        return packed.sum_per_answer(model(packed=packed, temperature=config.temperature)).float().cpu()


def _autocast(device: str, precision: str) -> AbstractContextManager[None]:
    import torch

    return torch.autocast(device, torch.bfloat16) if precision == "amp_bf16" else nullcontext()


def _write(columns: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file(columns, path)


if __name__ == "__main__":
    main(SPEC, run)
