"""GRPO through the stage, with answers from vLLM: the toy task's optimum is found as with engine ``hf``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import online_toy as toy
import pytest
import tiny_training as tiny
from vllm_models import llama

from compose_rl.store.manifest import Manifest


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    model = tmp_path_factory.mktemp("grpo") / "model"
    llama(0, initializer_range=0.02).save_pretrained(model)
    tiny.write_tokenizer(model)
    return toy.inputs(tmp_path_factory.mktemp("grpo-data"), model)


ENGINE = {"kind": "vllm", "kv_cache_gib": 0.25, "enforce_eager": True, "start_timeout": 400.0}
LORA = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 8,
    "lora_alpha": 32,
    "target_modules": "all-linear",
}


@pytest.mark.parametrize("staleness", [0, 1])
def test_grpo_finds_the_optimum(staleness: int, inputs: dict[str, Manifest], tmp_path: Path) -> None:
    # With two steps an iteration the trainer says itself what the engine has said of each token.
    variables: dict[str, Any] = {"engine": ENGINE, "max_staleness": staleness, "num_batches_per_update": 2}
    config = toy.config(max_duration="16iter", variables=variables, global_train_batch_size=16)
    result = tiny.run_stage("online_rl", config, inputs, tmp_path)
    rewards = tiny.curve(result, "rollout/reward")
    assert len(rewards) == 16
    assert rewards[0] < 0.4
    assert sum(rewards[-3:]) / 3 > 0.85
    assert max(tiny.curve(result, "rollout/staleness")) == staleness
    if not staleness:
        # Stale weights would be apart by tenths.
        assert max(tiny.curve(result, "rollout/engine_gap")) < 1e-3


def test_vllm_answers_with_the_adapter_that_is_trained(inputs: dict[str, Manifest], tmp_path: Path) -> None:
    variables: dict[str, Any] = {"engine": ENGINE, "num_batches_per_update": 2}
    config = toy.config(
        max_duration="3iter", model={"peft_config": LORA}, variables=variables, global_train_batch_size=16
    )
    result = tiny.run_stage("online_rl", config, inputs, tmp_path)
    # An update moves log-probabilities by a tenth: the engine has it, or it would be apart by as much.
    assert max(tiny.curve(result, "loss/train/policy_kl")) > 1e-3
    assert max(tiny.curve(result, "rollout/engine_gap")) < 1e-5
