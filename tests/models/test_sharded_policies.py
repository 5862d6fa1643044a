"""Policies that FSDP has sharded, on two processes: what they give, and their weights whole."""

from __future__ import annotations

import copy
import os
import socket
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import tiny_online as online  # noqa: E402
import torch.distributed as dist  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from compose_rl.core.packing import pack  # noqa: E402
from compose_rl.models.backbone import unwrapped  # noqa: E402
from compose_rl.models.critic import CriticHead, load_critic  # noqa: E402
from compose_rl.models.policy import make_policy  # noqa: E402
from compose_rl.models.weights import full_weights  # noqa: E402

WANT = ("logps", "entropies", "values")


def policy(folder: str, *, adapted: bool, joint: bool) -> Any:
    torch.manual_seed(4)
    model = make_policy(AutoModelForCausalLM.from_pretrained(folder))
    if adapted:
        lora = LoraConfig(task_type="CAUSAL_LM", r=3, target_modules=["q_proj", "down_proj"])
        model = get_peft_model(model, lora)
    inner = unwrapped(model)
    if joint:
        inner.critic_head = CriticHead(64)
    else:
        inner.critic = load_critic(folder, dropout=0, packed=True, pretrained=True, vocabulary=64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "critic" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def shard(model: Any) -> Any:
    block = type(unwrapped(model).model.layers[0])
    for module in list(model.modules()):
        if isinstance(module, block):
            fully_shard(module)
    return fully_shard(model)


def compare(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    batch = online.update_batch()
    packed = pack(batch["tokens"], batch["lengths"])
    for adapted, joint in ((False, True), (True, True), (True, False)):
        whole = policy(folder, adapted=adapted, joint=joint)
        expected = dict(full_weights(whole))
        sharded = shard(copy.deepcopy(whole))
        with torch.no_grad():
            outputs = whole(packed=packed, temperature=0.7, want=WANT)
            found = sharded(packed=packed, temperature=0.7, want=WANT)
        for name, values in outputs.items():
            torch.testing.assert_close(found[name], values, rtol=1e-5, atol=1e-5)
        gathered = dict(full_weights(sharded))
        assert gathered.keys() == expected.keys()
        for name, tensor in expected.items():
            assert type(gathered[name]) is not torch.distributed.tensor.DTensor
            torch.testing.assert_close(gathered[name], tensor, rtol=0, atol=1e-6)
    dist.destroy_process_group()


def test_sharded_policies_give_the_same_and_their_weights_are_gathered(tiny_model: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(compare, args=(port, str(tiny_model)), nprocs=2)
