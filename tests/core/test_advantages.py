"""Advantages against values by hand, plain loops and their own properties."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from compose_rl.config.online_rl import OnlineRLSettings  # noqa: E402
from compose_rl.core.advantages import (  # noqa: E402
    ADVANTAGES,
    gae,
    group,
    leave_one_out,
    optimal_value,
    whiten,
)

GRPO = OnlineRLSettings(loss_type="grpo")
DR_GRPO = OnlineRLSettings(loss_type="grpo", normalize_advantage=False)


def ids(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers)


# --- GAE


def test_gae_by_hand():
    # Answers of 2 and 1 tokens. delta = 0 + .5*2 - 1 = 0, 3 - 2 = 1; 5 - 4 = 1. gamma*lambda = .25.
    advantages, returns = gae(
        torch.tensor([0.0, 3.0, 5.0]),
        torch.tensor([1.0, 2.0, 4.0]),
        torch.tensor([2, 1]),
        gamma=0.5,
        lambda_gae=0.5,
    )
    assert advantages.tolist() == [0.25, 1.0, 1.0]
    assert returns.tolist() == [1.25, 3.0, 5.0]


@given(st.lists(st.integers(0, 6), max_size=6), st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
def test_gae_is_the_plain_recursion(lengths: list[int], gamma: float, lambda_gae: float, seed: int):
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, sum(lengths), generator=generator)
    expected: list[float] = []
    start = 0
    for length in lengths:
        following, advantage, own = 0.0, 0.0, []
        for t in reversed(range(start, start + length)):
            advantage = (
                rewards[t].item() + gamma * following - values[t].item() + gamma * lambda_gae * advantage
            )
            following = values[t].item()
            own.append(advantage)
        expected += reversed(own)
        start += length
    advantages, returns = gae(
        rewards, values, torch.tensor(lengths, dtype=torch.int64), gamma=gamma, lambda_gae=lambda_gae
    )
    torch.testing.assert_close(advantages, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(returns, advantages + values)


def test_without_discount_a_return_is_the_reward_to_come():
    _, returns = gae(
        torch.tensor([1.0, 0.0, 2.0]), torch.randn(3), torch.tensor([3]), gamma=1.0, lambda_gae=1.0
    )
    torch.testing.assert_close(returns, torch.tensor([3.0, 2.0, 2.0]))


# --- Groups


def test_group_by_hand():
    # Mean 2, population variance (1 + 0 + 1) / 3 for group 7; a single answer has no signal.
    rewards, groups = torch.tensor([1.0, 9.0, 2.0, 3.0]), ids(7, 3, 7, 7)
    std = math.sqrt(2 / 3) + 1e-4
    expected = torch.tensor([-1 / std, 0.0, 0.0, 1 / std])
    torch.testing.assert_close(group(rewards, groups, torch.ones(4), GRPO), expected)
    torch.testing.assert_close(
        group(rewards, groups, torch.ones(4), DR_GRPO), torch.tensor([-1.0, 0.0, 0.0, 1.0])
    )


def test_leave_one_out_by_hand():
    rewards, groups = torch.tensor([1.0, 2.0, 6.0, 5.0]), ids(0, 0, 0, 1)
    # 1 - (2+6)/2, 2 - (1+6)/2, 6 - (1+2)/2.
    expected = torch.tensor([-3.0, -1.5, 4.5, 0.0])
    torch.testing.assert_close(leave_one_out(rewards, groups, torch.ones(4), GRPO), expected)


@pytest.mark.parametrize("lost", [math.nan, math.inf, 1000.0])
@pytest.mark.parametrize("advantages", [group, leave_one_out])
def test_a_lost_answer_has_0_and_changes_no_other(advantages, lost: float):
    rewards, groups = torch.tensor([1.0, lost, 2.0, 4.0]), ids(0, 0, 0, 0)
    found = advantages(rewards, groups, torch.tensor([1.0, 0.0, 1.0, 1.0]), GRPO)
    alone = advantages(rewards[[0, 2, 3]], groups[:3], torch.ones(3), GRPO)
    assert found[1] == 0
    torch.testing.assert_close(found[[0, 2, 3]], alone)


@pytest.mark.parametrize("advantages", [group, leave_one_out])
def test_a_group_that_is_lost_altogether_has_0(advantages):
    rewards = torch.tensor([math.nan, math.nan, 1.0, 2.0])
    found = advantages(rewards, ids(0, 0, 1, 1), torch.tensor([0.0, 0.0, 1.0, 1.0]), GRPO)
    assert found[:2].tolist() == [0.0, 0.0]
    assert found.isfinite().all()


@given(st.floats(-1e3, 1e3), st.integers(1, 16))
def test_equal_rewards_give_exactly_0(reward: float, size: int):
    rewards, groups = torch.full((size,), reward), torch.zeros(size, dtype=torch.int64)
    for advantages in group, leave_one_out:
        assert advantages(rewards, groups, torch.ones(size), GRPO).tolist() == [0.0] * size


REWARDS = st.lists(st.tuples(st.integers(0, 3), st.integers(-8, 8)), min_size=1, max_size=12)


@given(REWARDS, st.integers(-50, 50))
def test_advantages_of_a_group_sum_to_0_and_do_not_notice_a_shift(rows, shift: int):
    groups = torch.tensor([row[0] for row in rows])
    rewards = torch.tensor([float(row[1]) for row in rows])
    for name, advantages in ADVANTAGES.items():
        settings = OnlineRLSettings.model_validate({"loss_type": name})
        found = advantages(rewards, groups, torch.ones(len(rows)), settings)
        for number in groups.unique():
            assert found[groups == number].sum().item() == pytest.approx(0, abs=1e-4)
        torch.testing.assert_close(
            advantages(rewards + shift, groups, torch.ones(len(rows)), settings), found
        )


def test_the_order_of_answers_does_not_matter():
    rewards, groups = torch.tensor([1.0, 5.0, 2.0, 3.0, 8.0]), ids(0, 1, 0, 1, 0)
    order = torch.tensor([4, 1, 0, 3, 2])
    found = group(rewards, groups, torch.ones(5), GRPO)
    torch.testing.assert_close(group(rewards[order], groups[order], torch.ones(5), GRPO), found[order])


# --- Whitening


def test_whitened_values_have_mean_0_and_variance_1_over_what_counts():
    values = torch.tensor([1.0, 2.0, math.nan, 6.0, 9.0])
    found = whiten(values, torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0]))
    # Mean 4.5, variance (12.25 + 6.25 + 2.25 + 20.25) / 4 = 10.25.
    expected = torch.tensor([-3.5, -2.5, 0.0, 1.5, 4.5]) / math.sqrt(10.25)
    expected[2] = 0.0
    torch.testing.assert_close(found, expected)


def test_a_weight_of_2_counts_as_two():
    found = whiten(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 1.0]))
    twice = whiten(torch.tensor([1.0, 1.0, 4.0]), torch.ones(3))
    torch.testing.assert_close(found, twice[[0, 2]])


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_values_without_spread_whiten_to_0(weight: float):
    assert whiten(torch.full((3,), 0.1), torch.full((3,), weight)).abs().max() < 1e-6


# --- V*


def test_optimal_value_by_hand():
    # beta log((e^0 + e^1 + e^2) / 3) at rewards / beta = 0, 1, 2.
    found = optimal_value(torch.tensor([[0.0, 0.5, 1.0]]), beta=0.5)
    assert found.item() == pytest.approx(0.5 * math.log((1 + math.e + math.e**2) / 3), abs=1e-6)


def test_optimal_value_is_between_mean_and_best_and_survives_a_small_beta():
    rewards = torch.tensor([[0.0, 1.0, 1.0, 0.0], [3.0, 3.0, 3.0, 3.0]])
    assert optimal_value(rewards, beta=1e-3).tolist() == pytest.approx([1 + 1e-3 * math.log(0.5), 3.0])
    assert optimal_value(rewards, beta=1e6).tolist() == pytest.approx([0.5, 3.0], abs=1e-4)


def test_lost_answers_are_no_part_of_an_optimal_value():
    rewards = torch.tensor([[0.0, math.nan, 1.0], [math.nan, math.nan, math.nan]])
    found = optimal_value(rewards, 1.0, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    assert found[0].item() == pytest.approx(math.log((1 + math.e) / 2), abs=1e-6)
    assert found[1].isnan()
