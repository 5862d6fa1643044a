"""A YAML in Compose RL's format, run by ``llmfoundry train``: trains, evaluates, resumes, logs, exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tiny_training as tiny
import torch
import yaml

from compose_rl.errors import UserError

PAIR_COLUMNS = ("chosen", "rejected")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards as Compose RL's script writes them: both columns hold prompt and answer."""
    folder = tmp_path_factory.mktemp("original")
    rows = [{name: row["prompt"] + row[name] for name in PAIR_COLUMNS} for row in tiny.preference_rows(24)]
    tiny.write_shards(folder / "train", rows[:16])
    tiny.write_shards(folder / "test", rows[16:])
    return folder


def document(model: Path, shards: Path, out: Path, **changed: Any) -> dict[str, Any]:
    """The keys of Compose RL's local_dpo.yaml; its paths, model and precision are this test's."""

    def loader(split: str, *, shuffle: bool) -> dict[str, Any]:
        dataset = {
            "local": str(shards),
            "split": split,
            "shuffle": shuffle,
            "shuffle_seed": 17,
            "download_timeout": 300,
            "max_seq_len": tiny.LENGTH,
        }
        return {"name": "pairwise_preference", "dataset": dataset, "drop_last": shuffle, "num_workers": 0}

    result: dict[str, Any] = {
        "run_name": "local_dpo",
        "seed": 17,
        "max_seq_len": tiny.LENGTH,
        "model": {
            "name": "hf_pairwise_offline_lm",
            "pretrained": True,
            "pretrained_model_name_or_path": str(model),
            "loss_type": "dpo",
            "beta": 0.1,
            "init_device": "cpu",
            "use_auth_token": False,
            "use_flash_attention_2": True,
            "attn_implementation": "flash_attention_2",
        },
        "tokenizer": {
            "name": str(model),
            "kwargs": {"model_max_length": tiny.LENGTH, "trust_remote_code": True, "padding": "longest"},
        },
        "loggers": {
            "tensorboard": {"log_dir": str(out / "tensorboard")},
            "curves": {"path": str(out / "curves.jsonl")},
        },
        "callbacks": {
            "lr_monitor": {},
            "memory_monitor": {},
            "runtime_estimator": {},
            "scheduled_gc": {"batch_interval": 1000},
            "speed_monitor": {"window_size": 1},
            "offline_rl": {},
            "hf_checkpointer": {
                "save_folder": str(out / "hf"),
                "save_interval": "1ep",
                "precision": "float32",
                "overwrite": True,
            },
        },
        "optimizer": {
            "name": "decoupled_adamw",
            "lr": 1e-3,
            "betas": [0.9, 0.95],
            "eps": 1e-8,
            "weight_decay": 1e-8,
        },
        "scheduler": {"name": "constant_with_warmup", "t_warmup": "0ba"},
        "algorithms": {"gradient_clipping": {"clipping_type": "norm", "clipping_threshold": 1.0}},
        "precision": "fp32",
        "fsdp_config": {
            "sharding_strategy": "FULL_SHARD",
            "mixed_precision": "PURE",
            "state_dict_type": "sharded",
            "activation_checkpointing": True,
            "limit_all_gathers": True,
        },
        "autoresume": True,
        "save_folder": str(out / "checkpoints"),
        "save_interval": "1ba",
        "save_num_checkpoints_to_keep": 1,
        "save_overwrite": False,
        "dist_timeout": 1800,
        "max_duration": "4ba",
        "eval_interval": "2ba",
        "eval_first": True,
        "train_loader": loader("train", shuffle=True),
        "eval_loader": loader("test", shuffle=False),
        "global_train_batch_size": 4,
        "device_train_microbatch_size": 1,
        "device_eval_batch_size": 1,
        "accumulate_train_batch_on_tokens": False,
        "python_log_level": "error",
        "log_to_console": False,
    }
    return result | changed


def train(document: dict[str, Any], out: Path) -> list[dict[str, Any]]:
    """``llmfoundry train FILE``; the lines of the curves."""
    from llmfoundry.cli.cli import app

    out.mkdir(exist_ok=True)
    path = out / "train.yaml"
    path.write_text(yaml.safe_dump(document))
    app(["train", str(path)], standalone_mode=False)
    return [json.loads(line) for line in (out / "curves.jsonl").read_text().splitlines()]


def losses(lines: list[dict[str, Any]]) -> list[float]:
    name = "loss/train/total"
    return [line["metrics"][name] for line in lines if name in line["metrics"]]


@pytest.fixture(scope="module")
def trained(
    tiny_model: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """Two steps, then the same YAML for four: the second run goes on from the first."""
    out = tmp_path_factory.mktemp("yaml")
    train(document(tiny_model, shards, out, max_duration="2ba"), out)
    return out, train(document(tiny_model, shards, out), out)


def test_it_trains_evaluates_and_resumes(trained: tuple[Path, list[dict[str, Any]]]) -> None:
    out, lines = trained
    assert losses(lines)[0] == pytest.approx(0.693147, abs=1e-5)
    # Steps 1 and 2 come out of the checkpoint of the first run.
    assert [line["batch"] for line in lines if "loss/train/total" in line["metrics"]] == [1, 2, 3, 4]
    assert any("metrics/eval/accuracy" in line["metrics"] for line in lines)
    assert list((out / "tensorboard").rglob("events*"))


def test_what_it_exports_is_a_plain_hugging_face_model(trained: tuple[Path, list[dict[str, Any]]]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out, _ = trained
    folder = out / "hf" / "huggingface" / "ba4"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__module__.startswith("transformers.")
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    assert AutoTokenizer.from_pretrained(folder).eos_token_id == tiny.EOS
    checkpoint = out / "checkpoints" / "ep0-ba4-rank0.pt"
    state = torch.load(checkpoint, weights_only=False)["state"]["model"]
    exported = model.state_dict()
    assert {f"model.{name}" for name in exported} == set(state)
    assert all(torch.equal(state[f"model.{name}"], value) for name, value in exported.items())


def test_the_reference_starts_where_load_path_says(
    tiny_model: Path, shards: Path, trained: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    checkpoint = trained[0] / "checkpoints" / "ep0-ba4-rank0.pt"
    lines = train(
        document(
            tiny_model,
            shards,
            tmp_path,
            max_duration="1ba",
            autoresume=False,
            load_path=str(checkpoint),
            load_weights_only=True,
            callbacks={"dpo": {}},
        ),
        tmp_path,
    )
    # The policy is not what the model's folder holds, and still equals its reference.
    assert losses(lines) == [pytest.approx(0.693147, abs=1e-6)]


def test_lora_exports_an_adapter_that_fits_the_base(tiny_model: Path, shards: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    given = document(tiny_model, shards, tmp_path, max_duration="2ba")
    peft_config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "target_modules": ["q_proj", "v_proj"],
    }
    given["model"] |= {"name": "hf_dpo_lm", "peft_config": peft_config}
    lines = train(given, tmp_path)
    assert losses(lines)[0] == pytest.approx(0.693147, abs=1e-5)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    before = base(torch.arange(2, 12)[None]).logits
    tuned = PeftModel.from_pretrained(base, tmp_path / "hf" / "huggingface" / "ba2")
    assert not torch.allclose(tuned(torch.arange(2, 12)[None]).logits, before, atol=1e-5)


def mpt_checkpoint(model: dict[str, Any], folder: Path) -> Path:
    """Weights as LLM Foundry's own MPT saves them."""
    from llmfoundry.models.mpt import ComposerMPTCausalLM

    keys = {name: value for name, value in model.items() if name not in ("name", "loss_type")}
    fresh = ComposerMPTCausalLM(**keys, loss_fn="torch_crossentropy")
    torch.save({"state": {"model": fresh.state_dict()}}, folder / "mpt.pt")
    return folder / "mpt.pt"


def test_mpt_trains_over_padded_rows(tiny_model: Path, shards: Path, tmp_path: Path) -> None:
    given = document(tiny_model, shards, tmp_path, max_duration="2ba", eval_first=False)
    given["callbacks"] = {"offline_rl": {}}
    given["model"] = {
        "name": "mpt_dpo_lm",
        "loss_type": "ipo",
        "d_model": 64,
        "n_heads": 4,
        "n_layers": 2,
        "expansion_ratio": 2,
        "max_seq_len": tiny.LENGTH,
        "vocab_size": tiny.VOCAB,
        "attn_config": {"attn_impl": "torch"},
    }
    with pytest.raises(UserError, match="set load_path to the checkpoint that the policy starts from"):
        train(given, tmp_path)
    given |= {"load_path": str(mpt_checkpoint(given["model"], tmp_path)), "load_weights_only": True}
    lines = train(given | {"autoresume": False, "save_folder": str(tmp_path / "second")}, tmp_path)
    # Policy and reference are equal: (0 - 1 / (2 beta))^2 with beta 0.1.
    assert losses(lines)[0] == pytest.approx(25.0, abs=1e-4)
    assert losses(lines)[1] != pytest.approx(25.0, abs=1e-4)


def test_the_names_of_compose_rl_are_registered() -> None:
    from llmfoundry import registry

    for name in ("hf_pairwise_offline_lm", "hf_dpo_lm", "mpt_pairwise_offline_lm", "mpt_dpo_lm"):
        assert name in registry.models
    for name in ("offline_rl", "dpo"):
        assert name in registry.callbacks_with_config
    for name in ("pairwise_preference", "finegrained_preference"):
        assert name in registry.dataloaders
