"""The weights that engines are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tiny_training as tiny
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from transformers import AutoModelForCausalLM

from compose_rl.errors import UserError
from compose_rl.models.critic import CriticHead, load_critic
from compose_rl.models.policy import make_policy
from compose_rl.models.weights import full_weights


def policy(folder: Path) -> Any:
    return make_policy(AutoModelForCausalLM.from_pretrained(folder))


def saved(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], atol: float = 0.0) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=atol)


@pytest.mark.parametrize("tied", [False, True])
def test_they_are_those_of_save_pretrained_without_any_critic(tied: bool, tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path / "model", tied=tied)
    model = policy(folder)
    expected = saved(model, tmp_path / "saved")
    model.critic_head = CriticHead(64)
    model.critic = load_critic(str(folder), dropout=0, packed=True, pretrained=True, vocabulary=64)
    pairs = list(full_weights(model))
    assert len(pairs) == len(dict(pairs))
    assert_same(dict(pairs), expected)


@pytest.mark.parametrize(
    "keys",
    [
        {"target_modules": ["q_proj", "down_proj"]},
        {"target_modules": ["embed_tokens", "lm_head"]},
        {"target_modules": "all-linear", "use_rslora": True, "modules_to_save": ["embed_tokens"]},
    ],
    ids=["layers", "embeddings", "all"],
)
def test_lora_is_merged_in_a_copy(keys: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    lora = LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=5, **keys)
    model = get_peft_model(policy(tiny_model), lora)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = {name: tensor.clone() for name, tensor in full_weights(model)}
    assert_same(dict(model.state_dict()), before)
    assert_same(found, saved(model.merge_and_unload(), tmp_path), atol=1e-5)
    # Merged they differ from the model's own.
    plain = dict(full_weights(policy(tiny_model)))
    assert any(not torch.equal(found[name], tensor) for name, tensor in plain.items())


def test_an_adapter_that_cannot_be_merged_is_refused(tiny_model: Path) -> None:
    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], use_dora=True)
    with pytest.raises(UserError, match="use plain LoRA"):
        list(full_weights(get_peft_model(policy(tiny_model), lora)))


def test_checkpointed_layers_keep_their_names_and_a_dtype_is_taken(tiny_model: Path) -> None:
    model = policy(tiny_model)
    expected = dict(full_weights(model))
    block = type(model.model.layers[0])
    apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, block))
    assert_same(dict(full_weights(model)), expected)
    halves = dict(full_weights(model, torch.bfloat16))
    assert_same(halves, {name: tensor.bfloat16() for name, tensor in expected.items()})
