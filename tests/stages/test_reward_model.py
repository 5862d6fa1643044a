"""Reward models as a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tiny_training as tiny

from compose_rl.errors import UserError
from compose_rl.stages.reward_model.run import wilson_interval
from compose_rl.store.manifest import Manifest

CONFIG: dict[str, Any] = {
    "precision": "fp32",
    "max_duration": "3ep",
    "global_train_batch_size": 8,
    "device_train_microbatch_size": 8,
    "device_eval_batch_size": 16,
    "optimizer": {"lr": 0.003},
    "scheduler": {"name": "constant_with_warmup", "t_warmup": "0ba"},
}
GOOD, BAD = 2, 3


def separable_pairs(count: int) -> list[dict[str, Any]]:
    """Random pairs, but that the chosen answer ends in GOOD and the rejected one in BAD."""
    rows = tiny.preference_rows(count)
    for row in rows:
        row["chosen"][-2], row["rejected"][-2] = GOOD, BAD
    return rows


def labelled_texts(count: int, labels: int = 1) -> list[dict[str, Any]]:
    """Random texts, the first label of which says whether they end in GOOD."""
    pairs = separable_pairs(count)
    return [
        {"input": row["prompt"] + row["chosen" if i % 2 else "rejected"], "label": [i % 2] * labels}
        for i, row in enumerate(pairs)
    ]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Manifest]:
    rows = separable_pairs(96)
    data = tiny.data_manifest(tmp_path_factory.mktemp("pairs"), "preference", rows[:64], rows[64:])
    return {"model": tiny.model_manifest(tiny_model), "data": data}


@pytest.fixture(scope="module")
def linear(storage: Path, pairs: dict[str, Manifest]) -> Manifest:
    return tiny.run_stage("reward_model", CONFIG, pairs, storage)


def test_separable_pairs_are_told_apart(linear: Manifest) -> None:
    assert linear.metrics["accuracy"] == 1.0
    assert linear.metrics["margin"] > 0.5
    assert 0 <= linear.metrics["calibration_error"] < 0.5
    assert linear.metrics["accuracy_low"] == pytest.approx(0.8928, abs=1e-3)  # 32 of 32, by Wilson's formula
    assert linear.info["model_class"] == "sequence_classification"


def test_its_description_needs_no_other_input(linear: Manifest) -> None:
    names = {file.path for file in linear.output("checkpoint").files}
    assert {"model.pt", "hf/config.json", "hf/tokenizer.json"} <= names


def test_a_value_head_learns_too(storage: Path, pairs: dict[str, Manifest]) -> None:
    model = {"head": "value_head", "loss_type": "bt_eurus", "bias": 0.1}
    result = tiny.run_stage("reward_model", CONFIG | {"model": model}, pairs, storage)
    assert result.metrics["accuracy"] == 1.0
    assert result.info["model_class"] == "reward_value_head"
    assert result.info["loss_type"] == "bt_eurus"


def test_a_classifier_learns_labels(tmp_path: Path, storage: Path, pairs: dict[str, Manifest]) -> None:
    rows = labelled_texts(96)
    data = tiny.data_manifest(tmp_path, "classifier", rows[:64], rows[64:])
    config = CONFIG | {"model": {"name": "hf_classifier_rm", "loss_type": "bce"}, "max_duration": "6ep"}
    result = tiny.run_stage("reward_model", config, pairs | {"data": data}, storage)
    assert result.metrics["accuracy"] == 1.0
    assert "margin" not in result.metrics


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"loss_type": "bce"}, "set name: hf_classifier_rm"),
        ({"name": "hf_classifier_rm", "loss_type": "bce"}, "holds 'preference' samples"),
        ({"head": "linear", "p_dropout": 0.1}, "p_dropout"),
        ({"return_last": False}, "return_last=False"),
        ({"haed": "linear"}, "did you mean 'head'"),
    ],
)
def test_what_does_not_fit_is_refused(
    pairs: dict[str, Manifest], model: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        tiny.job_file("reward_model", CONFIG | {"model": model}, pairs, tmp_path, "a1")


def test_the_interval_of_a_share() -> None:
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662.
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
