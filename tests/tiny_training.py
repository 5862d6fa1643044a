"""A tiny Llama, a tokenizer, shards and manifests: what a training stage reads, made in seconds."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from compose_rl.config.schema import Config
from compose_rl.stages.attempt import JobFile, published
from compose_rl.stages.job import Job, execute
from compose_rl.stages.spec import load
from compose_rl.store.checksums import describe
from compose_rl.store.manifest import Manifest, Output

VOCAB = 64
LENGTH = 32
EOS, PAD = 1, 0


def write_tokenizer(folder: Path) -> None:
    """A word-level tokenizer over ``t2 … t63`` with an end-of-sequence token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": PAD, "</s>": EOS} | {f"t{i}": i for i in range(2, VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t2"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", model_max_length=LENGTH
    ).save_pretrained(folder)


def write_model(folder: Path, *, seed: int = 0, tied: bool = False, vocab: int = VOCAB) -> Path:
    """A Llama of 2 layers and hidden size 64 with its tokenizer, as a Hugging Face folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def tokens(generator: np.random.Generator, low: int, high: int) -> list[int]:
    return generator.integers(2, VOCAB, generator.integers(low, high)).tolist()


def preference_rows(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Random pairs whose answers all end in EOS, with rewards."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        chosen, rejected = tokens(generator, 2, 12), tokens(generator, 2, 12)
        rows.append(
            {
                "prompt": tokens(generator, 3, 9),
                "chosen": [*chosen, EOS],
                "rejected": [*rejected, EOS],
                "chosen_reward": float(generator.normal()),
                "rejected_reward": float(generator.normal()),
            }
        )
    return rows


def unpaired_rows(count: int, seed: int = 1) -> list[dict[str, Any]]:
    pairs = preference_rows(count, seed)
    return [
        {"prompt": row["prompt"], "completion": row["chosen"], "label": [i % 2]}
        for i, row in enumerate(pairs)
    ]


def instruction_rows(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """An answer repeats its prompt's last token, which a model can learn."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        prompt = tokens(generator, 3, 9)
        answer = [prompt[-1]] * int(generator.integers(2, 8)) + [EOS]
        rows.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer})
    return rows


def write_shards(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """MDS shards as docs/architecture.md says: token columns are the bytes of int64 arrays."""
    from streaming import MDSWriter

    columns = {name: "float64" if isinstance(value, float) else "bytes" for name, value in rows[0].items()}
    with MDSWriter(out=str(folder), columns=columns) as writer:
        for row in rows:
            writer.write(
                {
                    name: value if isinstance(value, float) else np.array(value, np.int64).tobytes()
                    for name, value in row.items()
                }
            )
    return folder


def manifest(stage: str, folder: Path, outputs: dict[str, Path], info: dict[str, Any]) -> Manifest:
    """A finished stage's manifest over folders that are there."""
    return Manifest(
        stage=stage,
        version=1,
        key=(stage + folder.name).encode().hex().ljust(64, "0")[:64],
        uri=str(folder / "manifest.json"),
        attempt="a0",
        config={},
        outputs={name: Output(uri=str(path), files=describe(path)) for name, path in outputs.items()},
        info=info,
    )


def model_manifest(folder: Path) -> Manifest:
    info = {
        "model_class": "causal_lm",
        "vocab_size": json.loads((folder / "config.json").read_text())["vocab_size"],
    }
    return manifest("export", folder, {"model": folder}, info)


def data_manifest(folder: Path, dataset_type: str, train: list[Any], validation: list[Any]) -> Manifest:
    """A tokenize manifest over freshly written shards."""
    outputs = {
        "train": write_shards(folder / "train", train),
        "validation": write_shards(folder / "validation", validation),
    }
    info = {
        "dataset_type": dataset_type,
        "columns": sorted(train[0]),
        "samples": {"train": len(train), "validation": len(validation)},
        "max_length": LENGTH,
        "longest": LENGTH - 1,
        "vocab_size": VOCAB,
        "has_rewards": "chosen_reward" in train[0],
    }
    return manifest("tokenize", folder, outputs, info)


def job_file(
    stage: str, config: dict[str, Any], inputs: dict[str, Manifest], storage: Path | str, attempt: str
) -> JobFile:
    spec = load(stage)
    parsed: Config = spec.parse(config, inputs)
    return JobFile(
        stage=stage,
        key=spec.key(parsed, inputs),
        attempt=attempt,
        storage=str(storage),
        config=config,
        inputs=inputs,
    )


def run_stage(
    stage: str, config: dict[str, Any], inputs: dict[str, Manifest], storage: Path | str, attempt: str = "a1"
) -> Manifest:
    """Run a stage in this process, or take its result if there is one; its manifest."""
    spec = load(stage)
    document = job_file(stage, config, inputs, storage, attempt)
    job = Job(spec, document)
    run = importlib.import_module(f"compose_rl.stages.{stage}.run").run
    found = published(job.store, stage, document.key) or execute(job, run)
    assert found is not None
    return found


def weights(result: Manifest) -> dict[str, Any]:
    """The trained tensors by name."""
    import torch

    path = Path(result.output("checkpoint").uri) / "model.pt"
    # The files are this test's own.
    return torch.load(path, weights_only=False)["state"]["model"]


def start(model: Path) -> dict[str, Any]:
    """The tensors of a Hugging Face folder, by the names that they have in :func:`weights`."""
    from safetensors.torch import load_file

    return {f"model.{name}": tensor for name, tensor in load_file(model / "model.safetensors").items()}


def curve(result: Manifest, metric: str = "loss/train/total") -> list[float]:
    return losses((Path(result.output("curves").uri) / "curves.jsonl").read_text(), metric)


def losses(text: str, metric: str = "loss/train/total") -> list[float]:
    """The values of ``metric`` in curves.jsonl."""
    lines = [json.loads(line)["metrics"] for line in text.splitlines()]
    return [metrics[metric] for metrics in lines if metric in metrics]
