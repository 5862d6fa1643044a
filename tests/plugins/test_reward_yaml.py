"""A reward model's YAML in Compose RL's format, run by ``llmfoundry train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import test_offline_yaml as original
import tiny_training as tiny
import torch

# Importing it registers the exported model's class.
from compose_rl.models.hf_reward import RewardModelConfig

CHOSEN_END, REJECTED_END = 2, 3
HEADS: dict[str, dict[str, Any]] = {"value_head": {}, "linear": {"head": "linear"}}


def texts(count: int) -> list[dict[str, list[int]]]:
    """Pairs as Compose RL writes them, the better one ending in CHOSEN_END."""
    rows = tiny.preference_rows(count)
    for row in rows:
        row["chosen"][-2], row["rejected"][-2] = CHOSEN_END, REJECTED_END
    return [{name: row["prompt"] + row[name] for name in ("chosen", "rejected")} for row in rows]


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, list[int]]]:
    return texts(48)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, pairs: list[dict[str, list[int]]]) -> Path:
    folder = tmp_path_factory.mktemp("reward-shards")
    tiny.write_shards(folder / "train", pairs[:32])
    tiny.write_shards(folder / "val", pairs[32:])
    return folder


def document(model: Path, shards: Path, out: Path, head: str, **changed: Any) -> dict[str, Any]:
    """The keys of Compose RL's local_reward.yaml; its paths, model and precision are this test's."""
    given = original.document(model, shards, out)
    given["model"] = {
        "name": "hf_pairwise_rm",
        "pretrained_model_name_or_path": str(model),
        "pretrained": True,
        "loss_type": "bt",
        "use_flash_attention_2": True,
        "return_last": True,
        "return_lm_logits": False,
        "use_auth_token": False,
        # "mixed" in the original, which LLM Foundry knows for several processes only.
        "init_device": "cpu",
        "additional_train_metrics": ["pairwise_rm_accuracy"],
        "additional_eval_metrics": ["pairwise_rm_accuracy"],
        **HEADS[head],
    }
    del given["callbacks"]["offline_rl"]
    validation = given.pop("eval_loader")
    validation["dataset"]["split"] = "val"
    return given | {
        "run_name": "local-reward",
        "max_seq_len": tiny.LENGTH,
        "eval_loader": [validation | {"label": "val"}],
        "eval_subset_num_batches": -1,
        "progress_bar": False,
        "optimizer": given["optimizer"] | {"lr": 3e-3},
        "max_duration": "2ep",
        "eval_interval": 1,
        "save_interval": "1ep",
        "global_train_batch_size": 8,
        "scheduler": {"name": "cosine_with_warmup", "alpha_f": 0.01, "t_warmup": "0.1dur"},
        **changed,
    }


def logged(lines: list[dict[str, Any]], metric: str) -> list[float]:
    return [line["metrics"][metric] for line in lines if metric in line["metrics"]]


@pytest.fixture(scope="module", params=HEADS)
def trained(
    request: pytest.FixtureRequest, tiny_model: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, list[dict[str, Any]]]:
    """One epoch, then the same YAML for two: the second run goes on from the first."""
    out = tmp_path_factory.mktemp("reward-yaml")
    original.train(document(tiny_model, shards, out, request.param, max_duration="1ep"), out)
    return request.param, out, original.train(document(tiny_model, shards, out, request.param), out)


def test_it_trains_evaluates_and_resumes(trained: tuple[str, Path, list[dict[str, Any]]]) -> None:
    _, out, lines = trained
    steps = [line["batch"] for line in lines if "loss/train/total" in line["metrics"]]
    # Steps 1 to 4 come out of the checkpoint of the first run.
    assert steps == list(range(1, 9))
    accuracy = logged(lines, "metrics/eval/val/PairwiseRewardAccuracy")
    assert accuracy[-1] == 1.0
    assert logged(lines, "metrics/train/PairwiseRewardAccuracy")
    assert list((out / "tensorboard").rglob("events*"))


def test_what_it_exports_gives_the_trained_scores(
    trained: tuple[str, Path, list[dict[str, Any]]], pairs: list[dict[str, list[int]]]
) -> None:
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    head, out, lines = trained
    folder = out / "hf" / "huggingface" / "ba8"
    auto = AutoModel if head == "value_head" else AutoModelForSequenceClassification
    model = auto.from_pretrained(folder).eval()
    state = torch.load(next((out / "checkpoints").glob("ep2*.pt")), weights_only=False)["state"]["model"]
    exported = model.state_dict()
    assert {f"model.{name}" for name in exported} == set(state)
    assert all(torch.equal(state[f"model.{name}"], value) for name, value in exported.items())
    assert AutoTokenizer.from_pretrained(folder).eos_token_id == tiny.EOS

    def score(text: list[int]) -> float:
        ids = torch.tensor([text])
        with torch.no_grad():
            if head == "value_head":
                return model.score(ids, torch.ones_like(ids)).item()
            return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.item()

    margins = [score(row["chosen"]) - score(row["rejected"]) for row in pairs[32:]]
    expected = logged(lines, "metrics/eval/val/PairwiseRewardMargin")[-1]
    assert sum(margins) / len(margins) == pytest.approx(expected, rel=1e-4)
    written = json.loads((folder / "config.json").read_text())
    assert written["model_type"] == ("pairwise_rm" if head == "value_head" else "llama")


def test_lora_exports_an_adapter_with_the_head(
    tiny_model: Path, shards: Path, tmp_path: Path, pairs: list[dict[str, list[int]]]
) -> None:
    from peft import PeftModel
    from transformers import AutoConfig, AutoModel

    given = document(tiny_model, shards, tmp_path, "value_head", max_duration="1ep")
    given["model"]["peft_config"] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "target_modules": ["q_proj", "v_proj"],
    }
    lines = original.train(given, tmp_path)
    config = RewardModelConfig(AutoConfig.from_pretrained(tiny_model))
    base = AutoModel.from_pretrained(tiny_model, config=config)
    adapted = PeftModel.from_pretrained(base, tmp_path / "hf" / "huggingface" / "ba4").eval()

    def score(text: list[int]) -> float:
        ids = torch.tensor([text])
        with torch.no_grad():
            return adapted.score(ids, torch.ones_like(ids)).item()

    margins = [score(row["chosen"]) - score(row["rejected"]) for row in pairs[32:]]
    expected = logged(lines, "metrics/eval/val/PairwiseRewardMargin")[-1]
    assert sum(margins) / len(margins) == pytest.approx(expected, rel=1e-4)
