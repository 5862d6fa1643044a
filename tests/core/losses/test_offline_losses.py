"""Offline losses: values, properties, gradients, figures logged, and what refuses to compute."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from offline_golden import (  # noqa: E402
    BY_HAND,
    CASES,
    NAMES,
    a_row,
    check_by_hand,
    loss_of,
    pairs_from,
    row_strategy,
    rows_strategy,
    settings_strategy,
    slow_pair_loss,
)

from compose_rl.config.offline_rl import OfflineLossName, OfflineRLSettings  # noqa: E402
from compose_rl.core.losses import OFFLINE_LOSSES  # noqa: E402
from compose_rl.errors import UserError  # noqa: E402

LOG2 = math.log(2)


def test_losses_have_the_values_worked_out_by_hand():
    check_by_hand(OFFLINE_LOSSES)
    assert {case.split()[0] for case in BY_HAND} == set(OFFLINE_LOSSES)


def test_table_and_settings_name_the_same_losses():
    assert set(get_args(OfflineLossName)) == set(OFFLINE_LOSSES)


@pytest.mark.parametrize("name", NAMES)
def test_losses_equal_the_slow_implementation(name: str):
    @CASES
    @given(rows_strategy, settings_strategy(name))
    def check(rows: list[dict[str, float]], s: OfflineRLSettings) -> None:
        expected = sum(slow_pair_loss(row, s) for row in rows) / len(rows)
        assert loss_of(rows, s).loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)

    check()


# --- Properties


def test_dpo_starts_at_log_2():
    same = a_row(policy_chosen=-10.0, policy_rejected=-11.0)
    for smoothing in (0.0, 0.2):
        assert loss_of([same], OfflineRLSettings(label_smoothing=smoothing)).loss.item() == pytest.approx(
            LOG2
        )


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_the_weighted_mean_of_its_microbatches(name: str):
    @CASES
    @given(rows_strategy, rows_strategy, settings_strategy(name))
    def check(first: list[dict[str, float]], second: list[dict[str, float]], s: OfflineRLSettings) -> None:
        whole, parts = loss_of(first + second, s), (loss_of(first, s), loss_of(second, s))
        share = len(first) / len(first + second)
        assert whole.loss.item() == pytest.approx(
            share * parts[0].loss.item() + (1 - share) * parts[1].loss.item(), rel=1e-9, abs=1e-9
        )
        for key, value in whole.metrics.items():
            mean = share * parts[0].metrics[key].item() + (1 - share) * parts[1].metrics[key].item()
            assert value.item() == pytest.approx(mean, rel=1e-4, abs=1e-4), key

    check()


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_pairs_does_not_matter(name: str):
    rows = [a_row(policy_chosen=-float(i), chosen_reward=i / 2) for i in range(1, 6)]
    s = OfflineRLSettings(loss_type=name, sft_alpha=0.1)  # type: ignore[arg-type]
    assert loss_of(rows[::-1], s).loss.item() == pytest.approx(loss_of(rows, s).loss.item(), rel=1e-12)


@CASES
@given(row_strategy, st.floats(0, 0.45))
def test_swapping_the_answers_of_dpo_swaps_the_label(row: dict[str, float], smoothing: float):
    swapped = row | {
        "policy_chosen": row["policy_rejected"],
        "policy_rejected": row["policy_chosen"],
        "ref_chosen": row["ref_rejected"],
        "ref_rejected": row["ref_chosen"],
    }
    s = OfflineRLSettings(label_smoothing=smoothing)
    one, other = loss_of([row], s).loss.item(), loss_of([swapped], s).loss.item()
    # -log sigma(x) + log sigma(-x) = -x, so exchanging the two moves the loss by (1 - 2 eps) beta h.
    h = row["policy_chosen"] - row["ref_chosen"] - row["policy_rejected"] + row["ref_rejected"]
    assert one - other == pytest.approx(-(1 - 2 * smoothing) * s.beta * h, abs=1e-9)


def gradients(rows: list[dict[str, float]], s: OfflineRLSettings) -> torch.Tensor:
    pairs = pairs_from(rows)
    chosen = pairs.policy_chosen.requires_grad_()
    rejected = pairs.policy_rejected.requires_grad_()
    OFFLINE_LOSSES[s.loss_type](pairs, s).loss.backward()
    return torch.stack([chosen.grad, rejected.grad])


@CASES
@given(rows_strategy)
def test_rpo_and_rcdpo_have_the_same_gradient(rows: list[dict[str, float]]):
    rpo, rcdpo = (gradients(rows, OfflineRLSettings(loss_type=name)) for name in ("rpo", "rcdpo"))
    torch.testing.assert_close(rpo, rcdpo, rtol=1e-10, atol=1e-12)


@CASES
@given(row_strategy)
def test_rpo_is_not_negative_and_0_where_the_margins_agree(row: dict[str, float]):
    s = OfflineRLSettings(loss_type="rpo")
    assert loss_of([row], s).loss.item() >= -1e-12
    h = row["policy_chosen"] - row["ref_chosen"] - row["policy_rejected"] + row["ref_rejected"]
    agreeing = row | {"chosen_reward": s.beta * h, "rejected_reward": 0.0}
    assert loss_of([agreeing], s).loss.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_with_finite_differences(name: str):
    s = OfflineRLSettings(loss_type=name, sft_alpha=0.2)  # type: ignore[arg-type]
    base = pairs_from([a_row(), a_row(policy_chosen=-3.0, policy_rejected=-9.5)])

    def loss(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return OFFLINE_LOSSES[name](replace(base, policy_chosen=chosen, policy_rejected=rejected), s).loss

    assert torch.autograd.gradcheck(
        loss, (base.policy_chosen.requires_grad_(), base.policy_rejected.requires_grad_())
    )


@pytest.mark.parametrize("name", NAMES)
def test_training_raises_the_chosen_answer_above_the_rejected(name: str):
    same = a_row(policy_chosen=-10.0, policy_rejected=-11.0)
    chosen, rejected = gradients([same], OfflineRLSettings(loss_type=name)).flatten()  # type: ignore[arg-type]
    assert chosen < 0 < rejected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chosen, rejected", [(0.0, -1e5), (-1e5, 0.0)])
def test_losses_and_gradients_stay_finite_at_extreme_margins(name: str, chosen: float, rejected: float):
    row = a_row(policy_chosen=chosen, policy_rejected=rejected)
    pairs = pairs_from([row], torch.float32)
    pairs.policy_chosen.requires_grad_()
    output = OFFLINE_LOSSES[name](pairs, OfflineRLSettings(loss_type=name))  # type: ignore[arg-type]
    output.loss.backward()
    assert output.loss.isfinite() and pairs.policy_chosen.grad.isfinite().all()


# --- What is logged


def test_metrics_are_named_as_in_the_original_and_carry_no_gradient():
    pairs = pairs_from([a_row()])
    pairs.policy_chosen.requires_grad_()
    s = OfflineRLSettings(loss_type="rebel", beta=0.5, sft_alpha=0.3)
    metrics = OFFLINE_LOSSES["rebel"](pairs, s).metrics
    expected = {
        "chosen_rewards": 1.5,
        "rejected_rewards": -0.5,
        "margin": 2.0,
        "chosen_KL": 3.0,
        "rejected_KL": -1.0,
        "margin_KL": 4.0,
        "accuracy": 1.0,
        "reward_diff": 1.0,
        "rebel_loss": 1.0,
        "sft_regularization_loss": 0.7,
    }
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(expected, abs=1e-6)
    assert not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("name", ["rpo", "rcdpo", "rebel"])
def test_data_without_rewards_is_refused(name: str):
    pairs = replace(pairs_from([a_row()]), chosen_reward=None)
    with pytest.raises(UserError, match=f"loss_type='{name}' needs the columns 'chosen_reward'"):
        OFFLINE_LOSSES[name](pairs, OfflineRLSettings(loss_type=name))  # type: ignore[arg-type]
