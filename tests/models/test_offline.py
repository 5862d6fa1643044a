"""The Composer model of offline preference optimisation, without a trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tiny_training as tiny
import torch

from compose_rl.errors import UserError


@pytest.fixture(scope="module")
def build(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    from compose_rl.models.offline import ComposerHFPairwiseOfflineLM

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)

    def build_model(**keys: Any) -> Any:
        return ComposerHFPairwiseOfflineLM(tokenizer, str(tiny_model), **keys)

    return build_model


def batch(count: int, **extra: torch.Tensor) -> dict[str, torch.Tensor]:
    rows = tiny.preference_rows(count, seed=3)
    pieces = [[row["prompt"], row["chosen"], row["rejected"]] for row in rows]
    return {
        "tokens": torch.tensor([token for row in pieces for piece in row for token in piece]),
        "lengths": torch.tensor([[len(piece) for piece in row] for row in pieces]),
        "index": torch.arange(count),
        "weight": torch.ones(count),
        **extra,
    }


def reference(count: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: -30 * torch.rand(count, generator=generator) for name in ("ref_chosen", "ref_rejected")}


def loss(model: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    return model.loss(model(given), given)["total"]


def test_dpo_by_hand(build: Any) -> None:
    given = batch(3, **reference(3))
    model = build(beta=0.2)
    logps = model(given)["logps"].double()
    gaps = (logps[0::2] - given["ref_chosen"]) - (logps[1::2] - given["ref_rejected"])
    expected = torch.log1p(torch.exp(-0.2 * gaps)).mean()
    torch.testing.assert_close(loss(model, given).double(), expected, rtol=1e-5, atol=1e-6)


def test_padded_rows_give_the_loss_and_the_gradient_of_packed_ones(build: Any) -> None:
    given = batch(4, **reference(4))
    gradients = []
    for packed in (True, False):
        model = build(packed=packed)
        value = loss(model, given)
        value.backward()
        gradients.append((value.detach(), {name: p.grad for name, p in model.named_parameters()}))
    torch.testing.assert_close(gradients[0][0], gradients[1][0], rtol=1e-5, atol=1e-5)
    for name, gradient in gradients[0][1].items():
        torch.testing.assert_close(gradient, gradients[1][1][name], rtol=1e-5, atol=1e-5)


def test_evaluation_is_a_mean_over_rows_without_those_that_fill_up(build: Any) -> None:
    model = build()
    metrics = model.get_metrics(is_train=False)
    parts = [batch(3, **reference(3)), batch(1, **reference(1))]
    filler = batch(2, **reference(2)) | {"weight": torch.zeros(2)}
    for part in [*parts, filler]:
        outputs = model.eval_forward(part)
        for metric in metrics.values():
            model.update_metric(part, outputs, metric)
    expected = (3 * loss(model, parts[0]) + loss(model, parts[1])) / 4
    torch.testing.assert_close(metrics["loss"].compute().float(), expected.detach(), rtol=1e-6, atol=1e-6)
    assert 0 <= metrics["accuracy"].compute() <= 1


def test_a_batch_without_reference_is_refused_unless_compat_asks_for_none(build: Any) -> None:
    with pytest.raises(UserError, match="add the callback 'offline_rl'"):
        loss(build(), batch(2))
    zeros = {name: torch.zeros(2) for name in ("ref_chosen", "ref_rejected")}
    torch.testing.assert_close(loss(build(compat=True), batch(2)), loss(build(), batch(2, **zeros)))


def test_keys_are_checked(build: Any) -> None:
    with pytest.raises(UserError, match="beta=-1"):
        build(beta=-1)
    with pytest.raises(UserError, match="attention_dropout"):
        build(config_overrides={"attention_dropout": 0.1})


def test_dropout_of_adapters_is_for_each_answer_what_it_is_in_a_row_of_its_own(build: Any) -> None:
    lora = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_dropout": 0.3}
    pair = batch(1)
    copies = 128
    given = {name: value.repeat(copies, *[1] * (value.ndim - 1)) for name, value in pair.items()}
    draws: dict[bool, torch.Tensor] = {}
    for packed in (True, False):
        model = build(peft_config=lora | {"target_modules": ["q_proj", "v_proj", "down_proj"]}, packed=packed)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_" in name:
                    weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
            model.eval()
            assert torch.equal(model(pair)["logps"], model(pair)["logps"])
            model.train()
            with model.model.disable_adapter():  # the reference
                assert torch.equal(model(pair)["logps"], model(pair)["logps"])
            torch.manual_seed(2)
            draws[packed] = model(given)["logps"].double().unflatten(0, (copies, 2))
    for answer in (0, 1):
        ours, rows = draws[True][:, answer], draws[False][:, answer]
        assert ours.std() > 0.01
        assert (ours.mean() - rows.mean()).abs() < 4 * ((ours.var() + rows.var()) / copies).sqrt()
        assert 0.7 < ours.std() / rows.std() < 1.4
