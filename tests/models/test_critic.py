"""Critics: where they start from, and how a policy is taken apart from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tiny_online as online
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from compose_rl.core.packing import pack
from compose_rl.errors import UserError
from compose_rl.models.critic import CriticHead, load_critic, without_critic
from compose_rl.models.hf_reward import AutoModelForCausalLMWithRM, RewardModelConfig
from compose_rl.models.policy import make_policy

OPTIONS = {"dropout": 0.0, "pretrained": True, "vocabulary": 64}


def scorer(kind: str, base: Path, folder: Path, labels: int = 1) -> Any:
    """A reward model with random weights, written to ``folder``."""
    torch.manual_seed(2)
    config = AutoConfig.from_pretrained(base)
    if kind == "sequence_classification":
        config.num_labels = labels
        model = AutoModelForSequenceClassification.from_config(config)
    else:
        model = AutoModelForCausalLMWithRM(RewardModelConfig(config, n_labels=labels, bias=0.5))
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", ["sequence_classification", "reward_value_head"])
def test_a_critic_from_a_reward_model_gives_its_scores_before_each_token(
    kind: str, packed: bool, tiny_model: Path, tmp_path: Path
) -> None:
    model = scorer(kind, tiny_model, tmp_path)
    critic = load_critic(str(tmp_path), packed=packed, **OPTIONS).eval()
    batch = online.update_batch()
    layout = pack(batch["tokens"], batch["lengths"])
    with torch.no_grad():
        values = critic(layout)
        for answer in range(6):
            row, column = divmod(answer, 2)
            prompt, *lengths = batch["lengths"][row].tolist()
            tokens, start = online.take(batch, [row])["tokens"], prompt + sum(lengths[:column])
            before = torch.cat([tokens[:prompt], tokens[start : start + lengths[column] - 1]])
            for offset in range(lengths[column]):
                state = before[: prompt + offset][None]
                if kind == "sequence_classification":
                    score = model(input_ids=state).logits[0, 0]
                else:
                    score = model.score(state, torch.ones_like(state))[0]
                found = values[layout.answer_ids == answer][offset]
                torch.testing.assert_close(found, score, rtol=1e-5, atol=1e-5)


def test_a_critic_from_a_language_model_starts_at_nothing_with_its_body(tiny_model: Path) -> None:
    critic = load_critic(str(tiny_model), packed=True, **OPTIONS)
    expected = AutoModelForCausalLM.from_pretrained(tiny_model).model.state_dict()
    assert critic.body.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in critic.body.state_dict().items())
    batch = online.update_batch()
    assert not critic(pack(batch["tokens"], batch["lengths"])).any()


def test_a_critic_that_does_not_fit_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    scorer("sequence_classification", tiny_model, tmp_path, labels=3)
    with pytest.raises(UserError, match="gives 3 scores per token"):
        load_critic(str(tmp_path), packed=True, **OPTIONS)
    with pytest.raises(UserError, match="64 tokens and the policy 65"):
        load_critic(str(tiny_model), packed=True, **OPTIONS | {"vocabulary": 65})


def policy(base: Path, *, critic: bool) -> Any:
    model = make_policy(AutoModelForCausalLM.from_pretrained(base))
    if critic:
        model.critic_head = CriticHead(64)
        torch.nn.init.normal_(model.critic_head.weight)
    return model


def test_a_plain_policy_takes_the_policy_out_of_a_state_with_a_critic(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = policy(tiny_model, critic=True)
    with torch.no_grad():
        source.lm_head.weight.add_(1)
    plain = policy(tiny_model, critic=False)
    plain.load_state_dict(source.state_dict())
    assert "critic (2 tensors) is left out" in caplog.text
    assert torch.equal(plain.lm_head.weight, source.lm_head.weight)
    assert plain.state_dict().keys() == without_critic(source.state_dict()).keys()


def test_a_state_without_a_critic_starts_a_policy_with_one(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = policy(tiny_model, critic=True)
    kept = target.critic_head.weight.clone()
    target.load_state_dict(policy(tiny_model, critic=False).state_dict())
    assert "has no critic" in caplog.text
    assert torch.equal(target.critic_head.weight, kept)


def test_half_a_critic_or_another_missing_weight_is_an_error(tiny_model: Path) -> None:
    for name in ("critic_head.bias", "lm_head.weight"):
        target = policy(tiny_model, critic=True)
        state = dict(target.state_dict())
        del state[name]
        with pytest.raises(RuntimeError, match=name):
            target.load_state_dict(state)


def test_values_are_float32_under_autocast() -> None:
    head = CriticHead(8)
    torch.nn.init.normal_(head.weight)
    hidden = torch.randn(5, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        values = head(hidden)
    torch.testing.assert_close(values, (hidden.float() @ head.weight.T + head.bias).squeeze(1))


def test_dropout_of_the_critic_is_for_training(tiny_model: Path) -> None:
    head = CriticHead(64, dropout=0.5)
    torch.nn.init.normal_(head.weight)
    hidden = torch.randn(3, 64)
    assert not torch.equal(head(hidden), head(hidden))
    head.eval()
    assert torch.equal(head(hidden), head(hidden))
