"""Supervised fine-tuning as a stage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tiny_training as tiny

from compose_rl.stages.resolve.run import pin
from compose_rl.stages.resolve.spec import ResolveConfig
from compose_rl.store import open_store
from compose_rl.store.manifest import Manifest

pytestmark = pytest.mark.filterwarnings("ignore")

CONFIG: dict[str, Any] = {
    "precision": "fp32",
    "max_duration": "2ep",
    "global_train_batch_size": 8,
    "device_train_microbatch_size": 4,
    "optimizer": {"lr": 0.01},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Manifest]:
    rows = tiny.instruction_rows(80)
    data = tiny.data_manifest(tmp_path_factory.mktemp("sft-data"), "instruction", rows[:64], rows[64:])
    return {"model": tiny.model_manifest(tiny_model), "data": data}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Manifest]) -> Manifest:
    return tiny.run_stage("sft", CONFIG, inputs, tmp_path_factory.mktemp("store"))


def test_it_learns(result: Manifest) -> None:
    losses = tiny.curve(result)
    assert len(losses) == 16
    assert losses[-1] < 0.8 * losses[0]
    assert "metrics/eval/LanguageCrossEntropy" in result.metrics
    assert result.info["steps"] == 16
    assert result.info["vocab_size"] == tiny.VOCAB
    assert result.info["model_class"] == "causal_lm"


def test_how_samples_are_packed_changes_nothing(
    result: Manifest, inputs: dict[str, Manifest], tmp_path: Path
) -> None:
    """Alone in a row or with others, a sample sees itself only."""
    alone = CONFIG | {"device_train_microbatch_size": 1, "device_eval_batch_size": 1}
    other = tiny.run_stage("sft", alone, inputs, tmp_path)
    assert tiny.curve(other) == pytest.approx(tiny.curve(result), rel=1e-4)
    loss = "metrics/eval/LanguageCrossEntropy"
    assert other.metrics[loss] == pytest.approx(result.metrics[loss], rel=1e-4)


def test_lora_learns_conversations(small_tokenizer: Path, own_cache: Path, tmp_path: Path) -> None:
    """From jsonl with message lists, tokenized as they are read, to a trained adapter."""
    model = tiny.write_model(tmp_path / "model", vocab=320)
    shutil.copytree(small_tokenizer, model, dirs_exist_ok=True)
    talk = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat on the mat"}]
    source = tmp_path / "talks.jsonl"
    source.write_text("".join(json.dumps({"messages": talk, "metadata": {"n": n}}) + "\n" for n in range(40)))
    store = open_store(str(tmp_path / "store"))
    tokenizer = pin(ResolveConfig(kind="model", uri=str(model)), store)
    given = {"source": pin(ResolveConfig(kind="dataset", uri=str(source)), store), "tokenizer": tokenizer}
    tokenized = {"dataset_type": "messages", "max_length": 64, "validation_fraction": 0}
    data = tiny.run_stage("tokenize", tokenized, given, tmp_path / "store")
    lora = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "target_modules": "all-linear"}
    config = CONFIG | {"model": {"peft_config": lora}}
    result = tiny.run_stage("sft", config, {"model": tokenizer, "data": data}, tmp_path / "store")
    losses = tiny.curve(result)
    assert losses[-1] < 0.9 * losses[0]
    assert result.info["peft"] is True
