"""The Composer models of online RL, without a trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tiny_online as online
import torch

from compose_rl.core.packing import pack
from compose_rl.errors import UserError

TEMPERATURES = (0.7, 1.0, 1.3)
LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def build(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    from compose_rl.models.online import ComposerHFCriticFreePolicyLM, ComposerHFPolicyLM

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)

    def build_model(critic: bool = False, **keys: Any) -> Any:
        kind = ComposerHFPolicyLM if critic else ComposerHFCriticFreePolicyLM
        return kind(tokenizer, str(tiny_model), **keys)

    return build_model


@pytest.fixture(scope="module")
def build_mpt(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    from compose_rl.models.online_mpt import ComposerMPTPolicyLM

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    sizes = {"d_model": 32, "n_heads": 2, "n_layers": 2, "expansion_ratio": 2, "max_seq_len": 64}
    attention = {"attn_config": {"attn_impl": "torch"}}

    def build_model(**keys: Any) -> Any:
        torch.manual_seed(0)
        return ComposerMPTPolicyLM(tokenizer, vocab_size=64, **sizes, **attention, **keys)

    return build_model


def reference_figures(model: Any, batch: online.Batch, row: int, answer: int) -> dict[str, torch.Tensor]:
    """Log-probabilities, entropies and last hidden states of one answer, from the plain Hugging Face call."""
    prompt, *answers = batch["lengths"][row].tolist()
    tokens = online.take(batch, [row])["tokens"]
    start = prompt + sum(answers[:answer])
    own = tokens[start : start + answers[answer]]
    sequence = torch.cat([tokens[:prompt], own])[None]
    with torch.no_grad():
        output = model.model(input_ids=sequence, output_hidden_states=True)
    before = slice(prompt - 1, prompt - 1 + len(own))
    law = torch.distributions.Categorical(logits=output.logits[0, before] / model.temperature)
    hidden = output.hidden_states[-1][0, before]
    return {"logps": law.log_prob(own), "entropies": law.entropy(), "hidden": hidden}


def with_a_trained_head(model: Any) -> Any:
    """Values that tell states apart, as after some training."""
    torch.manual_seed(5)
    torch.nn.init.normal_(model.model.critic_head.weight)
    return model


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("packed", [True, False])
def test_figures_of_each_token_are_those_of_its_answer_alone(
    build: Any, temperature: float, packed: bool
) -> None:
    batch = online.update_batch()
    model = with_a_trained_head(build(critic=True, temperature=temperature, packed=packed))
    outputs = model(batch)
    assert set(outputs) == {"logps", "entropies", "values", "answer_ids"}
    for answer in range(6):
        expected = reference_figures(model, batch, *divmod(answer, 2))
        head = model.model.critic_head
        expected["values"] = (expected.pop("hidden") @ head.weight.T + head.bias).squeeze(-1)
        for name, values in expected.items():
            found = outputs[name][outputs["answer_ids"] == answer]
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("loss_type", ["ppo", "grpo", "gspo", "rloo", "cispo"])
def test_on_the_first_pass_nothing_has_moved(build: Any, temperature: float, loss_type: str) -> None:
    model = build(critic=loss_type == "ppo", loss_type=loss_type, temperature=temperature)
    batch = online.update_batch()
    with torch.no_grad():
        reference = model(online.one_answer_a_row(batch))["logps"]
    for old in ({}, {"old_logps": reference}):
        outputs = model(batch)
        losses = model.loss(outputs, batch | {"ref_logps": outputs["logps"].detach()} | old)
        exact = 0.0 if not old else 1e-10
        assert abs(losses["policy_kl"]) <= exact
        assert losses["kl_loss"] == 0
        assert losses["clip_fraction"] == 0
    # Log-probabilities of another pass, laid out otherwise, are the same numbers.
    ratio = (outputs["logps"] - reference).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-6)


def test_a_temperature_on_one_side_only_would_be_seen(build: Any) -> None:
    batch = online.update_batch()
    cold, plain = build(temperature=0.7), build()
    with torch.no_grad():
        # Sharper than random weights are.
        for model in (cold, plain):
            model.model.lm_head.weight.mul_(20)
    old = plain(batch)["logps"].detach()
    losses = cold.loss(cold(batch), batch | {"old_logps": old, "ref_logps": old})
    assert losses["policy_kl"] > 1e-3
    assert losses["kl_loss"] > 1e-3


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_what_comes_later_changes_nothing_before(build: Any, joint: bool, packed: bool) -> None:
    model = build(critic=True, joint_actor_critic=joint, packed=packed).double()
    head = model.model.critic_head if joint else model.model.critic.head
    torch.nn.init.normal_(head.weight)
    prompt, length = 3, 5
    batch = {"tokens": torch.arange(10, 10 + prompt + length), "lengths": torch.tensor([[prompt, length]])}
    before = model(batch)
    for t in range(length):
        changed = batch["tokens"].clone()
        changed[prompt + t] = 2 + (changed[prompt + t] - 1) % 60
        after = model(batch | {"tokens": changed})
        # The value and the distribution of token t are those of the state before it.
        for name, stop in (("logps", t), ("values", t + 1), ("entropies", t + 1)):
            torch.testing.assert_close(after[name][:stop], before[name][:stop], rtol=0, atol=1e-6)
        assert abs(after["logps"][t] - before["logps"][t]) > 1e-4
        if t + 1 < length:
            assert abs(after["values"][t + 1] - before["values"][t + 1]) > 1e-4


def gradients(model: Any, batches: list[online.Batch]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of microbatches, weighed by the answers that count as Composer weighs them."""
    model.zero_grad()
    counts = [int((batch["answer_weights"] > 0).sum()) for batch in batches]
    total = torch.zeros(())
    for batch, count in zip(batches, counts, strict=True):
        loss = model.loss(model(batch), batch)["total"] * count / sum(counts)
        loss.backward()
        total = total + loss.detach()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "keys",
    [
        {"critic": True},
        {"critic": True, "joint_actor_critic": False},
        {"loss_type": "grpo", "entropy_loss_weight": 0.05},
        {"loss_type": "gspo"},
        {"loss_type": "apo", "compute_kl_loss": False, "beta": 0.5},
        {"critic": True, "peft_config": LORA},
    ],
    ids=["ppo", "separate", "grpo", "gspo", "apo", "lora"],
)
def test_microbatches_and_shared_prompts_change_nothing(build: Any, keys: dict[str, Any]) -> None:
    model = build(temperature=0.8, **keys).eval()
    batch = online.update_batch(rows=3, answers=2)
    batch["answer_weights"][1, 0] = 0
    with torch.no_grad():
        outputs = model(batch)
    noise = torch.Generator().manual_seed(1)
    for name in ("old_logps", "ref_logps"):
        batch[name] = outputs["logps"] + 0.3 * torch.randn(len(outputs["logps"]), generator=noise)
    batch["token_weights"] = batch["token_weights"] * (outputs["answer_ids"] != 2)
    expected_loss, expected = gradients(model, [batch])
    assert expected
    others = [
        [online.take(batch, [0]), online.take(batch, [2, 1])],
        [online.one_answer_a_row(batch)],
        [online.one_answer_a_row(online.take(batch, [row])) for row in range(3)],
    ]
    for batches in others:
        loss, found = gradients(model, batches)
        torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-6)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_value_loss_by_hand(build: Any) -> None:
    model = with_a_trained_head(build(critic=True, value_loss_weight=0.7, value_clip_range=0.1))
    batch = online.update_batch()
    outputs = model(batch)
    values, old, returns = (v.double() for v in (outputs["values"], batch["old_values"], batch["returns"]))
    near = torch.minimum(torch.maximum(values, old - 0.1), old + 0.1)
    losses = torch.maximum((values - returns) ** 2, (near - returns) ** 2) / 2
    expected = 0.7 * (losses * batch["token_weights"]).sum() / 6
    found = model.loss(outputs, batch)
    torch.testing.assert_close(found["value_loss"].double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["total"], found["policy_loss"] + found["value_loss"])


def test_a_fresh_critic_values_nothing_and_learns(build: Any) -> None:
    for joint in (True, False):
        model = build(critic=True, joint_actor_critic=joint)
        batch = online.update_batch()
        outputs = model(batch)
        assert torch.equal(outputs["values"], torch.zeros_like(outputs["values"]))
        model.loss(outputs, batch)["total"].backward()
        head = model.model.critic_head if joint else model.model.critic.head
        assert head.weight.dtype == torch.float32
        assert head.weight.grad.abs().max() > 1e-3


@pytest.mark.parametrize("critic", [True, False])
def test_with_lora_the_adapter_and_the_critics_head_are_trained_and_saved(build: Any, critic: bool) -> None:
    for joint in (True, False) if critic else (True,):
        model = build(critic=critic, peft_config=LORA, **({} if joint else {"joint_actor_critic": False}))
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained == set(model.state_dict())
        heads = {name for name in trained if "lora_" not in name}
        assert {name.split(".")[-2] for name in heads} == (
            {"critic_head" if joint else "head"} if critic else set()
        )
        assert any(".critic." in name for name in trained) == (not joint)
        batch = online.update_batch()
        model.loss(model(batch), batch)["total"].backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_mpt_gives_the_figures_of_each_answer_alone(build_mpt: Any) -> None:
    batch = online.update_batch()
    model = with_a_trained_head(build_mpt(temperature=0.7)).eval()
    outputs = model(batch)
    for answer in range(6):
        expected = reference_figures(model, batch, *divmod(answer, 2))
        head = model.model.critic_head
        expected["values"] = (expected.pop("hidden") @ head.weight.T + head.bias).squeeze(-1)
        for name, values in expected.items():
            found = outputs[name][outputs["answer_ids"] == answer]
            torch.testing.assert_close(found, values, rtol=1e-4, atol=1e-5)
    assert model.loss(outputs, batch)["total"].isfinite()
    with pytest.raises(UserError, match="joint_actor_critic=False"):
        build_mpt(joint_actor_critic=False)


def test_compose_rls_keys_under_config_overrides(build: Any) -> None:
    overrides = {"value_clip_range": 0.3, "compute_kl_loss": False, "target_kl": 0.1, "use_cache": False}
    model = build(critic=True, config_overrides=overrides)
    assert model.settings.value_clip_range == 0.3
    assert model.settings.target_kl == 0.1
    batch = online.update_batch()
    outputs = model(batch)
    # One place says where KL goes: it is not added to the loss beside the rewards.
    assert "kl_loss" not in model.loss(outputs, batch | {"ref_logps": outputs["logps"].detach() - 1})


def test_keys_are_checked(build: Any) -> None:
    with pytest.raises(UserError, match="loss_type='grpo' has no critic; use the model hf_critic_free_lm"):
        build(critic=True, loss_type="grpo")
    with pytest.raises(UserError, match="loss_type='ppo' needs a critic; use the model hf_actor_critic_lm"):
        build(loss_type="ppo")
    with pytest.raises(UserError, match="policy_clip_ratio=-1"):
        build(policy_clip_ratio=-1)
    for packed in (True, False):
        with pytest.raises(UserError, match=r"lora_dropout=0\.1.*set it to 0"):
            build(peft_config=LORA | {"lora_dropout": 0.1}, packed=packed)
    with pytest.raises(UserError, match="set joint_actor_critic: false"):
        build(critic=True, critic_path="somewhere")
    with pytest.raises(UserError, match="values are asked of a policy without a critic"):
        batch = online.update_batch()
        build().model(packed=pack(batch["tokens"], batch["lengths"]), want=("values",))


def test_evaluation_counts_answers_and_refuses_prompts(build: Any) -> None:
    model = build()
    metrics = model.get_metrics(is_train=False)
    parts = [online.update_batch(rows=3), online.update_batch(rows=1, seed=2)]
    filler = online.update_batch(rows=2, seed=3) | {"weight": torch.zeros(2)}
    for part in [*parts, filler]:
        outputs = model.eval_forward(part)
        for metric in metrics.values():
            model.update_metric(part, outputs, metric)
    losses = [model.loss(model(part), part)["total"].detach() for part in parts]
    torch.testing.assert_close(
        metrics["loss"].compute().float(), (3 * losses[0] + losses[1]) / 4, rtol=1e-6, atol=1e-6
    )
    with pytest.raises(UserError, match="eval_loader"):
        model.eval_forward({"prompt": torch.ones(1)})
