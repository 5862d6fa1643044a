"""A training YAML in Compose RL's own format trains online: names and keys as in its local_ppo.yaml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import online_toy as toy
import tiny_training as tiny
import torch
import yaml

from compose_rl.errors import UserError

CRITIC_FREE = {
    "name": "hf_critic_free_lm",
    "loss_type": "grpo",
    "normalize_advantage": True,
    "length_normalize_policy_loss": True,
    "policy_clip_ratio": 0.2,
    "policy_clip_high_ratio": 0.3,
    "compute_kl_loss": True,
    "kl_estimator": "k3",
    "kl_clip_range": 40.0,
    "entropy_loss_weight": 0.0,
    "target_kl": 0.1,
    "temperature": 0.7,
}
ACTOR_CRITIC = {
    "name": "hf_ppo_lm",
    "config_overrides": {
        "compute_kl_loss": False,
        "target_kl": 0.1,
        "value_clip_range": 0.2,
        "policy_clip_ratio": 0.15,
        "joint_actor_critic": True,
    },
}
REGRESSION = {"name": "hf_critic_free_lm", "loss_type": "apo", "beta": 0.05, "compute_kl_loss": False}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("online-original")
    rows = [{"prompt": row["prompt"], "vstar": 0.3} for row in tiny.preference_rows(24)]
    tiny.write_shards(folder / "train", rows)
    return folder


def document(model: Path, shards: Path, out: Path, **changed: Any) -> dict[str, Any]:
    source = {
        "pretrained": True,
        "pretrained_model_name_or_path": str(model),
        "init_device": "cpu",
        "use_auth_token": False,
        "use_flash_attention_2": True,
    }
    variables: dict[str, Any] = {
        "buffer": {"name": "MinibatchRolloutBuffer", "max_buffer_size": 16},
        "max_gen_len": toy.ANSWER,
        "gamma": 1.0,
        "lambda_gae": 0.95,
        "generations_per_prompt": 4,
        "num_unique_prompts_per_iter": 4,
        "num_batches_per_update": 2,
        "epoch_per_iteration": 1,
        "device_generate_batch_size": 4,
        "eos_token_ids": [tiny.EOS],
        "generation_kwargs": {"top_p": 1.0, "do_sample": True, "use_cache": True, "temperature": 0.7},
        "kl_controller": {"kl_ctl_type": "fixed", "init_kl_coef": 0.05},
        "reference_model": {
            "model_config": {"name": "hf_causal_lm"} | source,
            "precision": "fp32",
        },
        "non_train_fsdp_config": {"sharding_strategy": "FULL_SHARD"},
        "rewards": {
            "output_length": {"reward_type": "output_length", "max_gen_len": toy.ANSWER},
            "bad_generation_end": {"reward_type": "bad_generation_end", "reward": -1.0},
        },
    }
    loader = {
        "name": "prompt",
        "dataset": {
            "local": str(shards),
            "split": "train",
            "shuffle": True,
            "shuffle_seed": 17,
            "max_gen_len": "${variables.max_gen_len}",
            "max_seq_len": "${max_seq_len}",
            "download_timeout": 1800,
        },
        "drop_last": True,
        "num_workers": 0,
    }
    given = CRITIC_FREE | changed.pop("model", {})
    result: dict[str, Any] = {
        "run_name": "local_ppo",
        "seed": 17,
        "max_seq_len": tiny.LENGTH,
        "model": given | source,
        "variables": variables,
        "tokenizer": {
            "name": str(model),
            "kwargs": {"model_max_length": tiny.LENGTH, "padding": "longest", "trust_remote_code": True},
        },
        "loggers": {
            "tensorboard": {"log_dir": str(out / "tensorboard")},
            "curves": {"path": str(out / "curves.jsonl")},
        },
        "callbacks": {
            "lr_monitor": {},
            "on_policy_rl": {},
            "hf_checkpointer": {
                "save_folder": str(out / "hf"),
                "save_interval": "1iter",
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
        "scheduler": {"name": "constant_with_warmup", "t_warmup": "1iter"},
        "algorithms": {"gradient_clipping": {"clipping_type": "norm", "clipping_threshold": 1.0}},
        "precision": "fp32",
        "save_folder": str(out / "checkpoints"),
        "save_interval": "1iter",
        "save_num_checkpoints_to_keep": 1,
        "save_overwrite": False,
        "autoresume": True,
        "max_duration": "2iter",
        "eval_interval": 0,
        "train_loader": loader,
        "global_train_batch_size": 8,
        "device_train_batch_size": 8,
        "device_train_microbatch_size": 1,
        "device_eval_batch_size": 1,
        "accumulate_train_batch_on_tokens": False,
        "python_log_level": "error",
    }
    return result | changed


def train(given: dict[str, Any], out: Path) -> list[dict[str, float]]:
    """LLM Foundry's own ``train``; the metrics of each step."""
    from llmfoundry.command_utils.train import train_from_yaml

    out.mkdir(exist_ok=True)
    path = out / "train.yaml"
    path.write_text(yaml.safe_dump(given))
    train_from_yaml(str(path)).close()
    return [json.loads(line)["metrics"] for line in (out / "curves.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("model", [CRITIC_FREE, ACTOR_CRITIC, REGRESSION], ids=["grpo", "ppo", "apo"])
def test_it_trains(model: dict[str, Any], tiny_model: Path, shards: Path, tmp_path: Path) -> None:
    given = document(tiny_model, shards, tmp_path)
    given["model"] = {key: value for key, value in given["model"].items() if key not in CRITIC_FREE} | model
    lines = train(given, tmp_path)
    steps = [line for line in lines if "loss/train/total" in line]
    assert len(steps) == 4
    assert all(torch.isfinite(torch.tensor(line["loss/train/total"])) for line in steps)
    assert steps[0]["loss/train/policy_kl"] == pytest.approx(0.0, abs=1e-7)
    iterations = [line for line in lines if "rollout/reward" in line]
    assert len(iterations) == 2
    assert {"rollout/rewards/output_length", "rollout/rewards/bad_generation_end"} <= set(iterations[0])
    assert list((tmp_path / "tensorboard").rglob("events*"))
    assert list((tmp_path / "hf").rglob("model.safetensors"))


def test_the_same_yaml_for_longer_goes_on_from_its_checkpoint(
    tiny_model: Path, shards: Path, tmp_path: Path
) -> None:
    train(document(tiny_model, shards, tmp_path, max_duration="1iter"), tmp_path)
    lines = train(document(tiny_model, shards, tmp_path), tmp_path)
    whole = train(document(tiny_model, shards, tmp_path / "whole"), tmp_path / "whole")
    name = "rollout/reward"
    assert [line[name] for line in lines if name in line] == [line[name] for line in whole if name in line]


def test_durations_count_epochs(tiny_model: Path, shards: Path, tmp_path: Path) -> None:
    from llmfoundry.registry import config_transforms

    if "online_minibatches" not in config_transforms:
        pytest.skip("the project was installed before pyproject.toml named it: make environments")
    schedule = {"name": "linear_decay_with_warmup", "t_warmup": "1ep", "t_max": "4ep", "alpha_f": 0.0}
    given = document(tiny_model, shards, tmp_path, max_duration="3ep", scheduler=schedule)
    given["variables"]["epoch_per_iteration"] = 2
    lines = train(given, tmp_path)
    rates = [line["lr-DecoupledAdamW/group0"] for line in lines if "lr-DecoupledAdamW/group0" in line]
    # An epoch is a pass of two minibatches: warmup over 2, down over the next 6.
    assert rates == pytest.approx([1e-3 * x for x in (0, 1 / 2, 1, 5 / 6, 4 / 6, 3 / 6)])
    assert sum("rollout/reward" in line for line in lines) == 2


def test_a_model_that_is_no_policy_is_refused(tiny_model: Path, shards: Path, tmp_path: Path) -> None:
    given = document(tiny_model, shards, tmp_path)
    given["model"] = {
        "name": "hf_causal_lm",
        "pretrained_model_name_or_path": str(tiny_model),
        "pretrained": True,
    }
    with pytest.raises(UserError, match="works with hf_actor_critic_lm"):
        train(given, tmp_path)
