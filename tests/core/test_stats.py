"""Intervals, win rates and calibration against hand values and slow versions."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from compose_rl.core.stats import (  # noqa: E402
    bootstrap_mean,
    expected_calibration_error,
    margin_calibration_error,
    masked_mean,
    win_rate,
)

CASES = settings(max_examples=30, deadline=None, derandomize=True)


def test_bootstrap_interval_is_the_normal_one_for_many_values():
    # 400 coin throws, 200 heads: mean 0.5, standard error 0.5 / 20 = 0.025, 1.96 of them: 0.049.
    estimate = bootstrap_mean(torch.tensor([0.0, 1.0] * 200), resamples=5000)
    assert estimate.mean == 0.5
    assert estimate.low == pytest.approx(0.451, abs=0.004)
    assert estimate.high == pytest.approx(0.549, abs=0.004)


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says():
    generator = torch.Generator().manual_seed(1)
    draws = torch.randn(300, 60, generator=generator)
    covered = 0
    for i, values in enumerate(draws):
        estimate = bootstrap_mean(values, confidence=0.9, resamples=400, seed=i)
        covered += estimate.low <= 0 <= estimate.high
    # 270 expected, standard deviation sqrt(300 * 0.9 * 0.1) = 5.2; percentile intervals run slightly short.
    assert 250 <= covered <= 288


def test_bootstrap_repeats_with_its_seed_and_in_blocks():
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_bootstrap_draws_many_values_in_several_blocks(monkeypatch: pytest.MonkeyPatch):
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    whole = bootstrap_mean(values, resamples=101)
    monkeypatch.setattr("compose_rl.core.stats._RESAMPLED_AT_ONCE", 1000)
    assert bootstrap_mean(values, resamples=101) == whole


def test_equal_values_have_an_interval_without_width():
    estimate = bootstrap_mean(torch.full((7,), 0.25))
    assert (estimate.mean, estimate.low, estimate.high) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_bootstrap_refuses_what_has_no_mean(values: list[float]):
    with pytest.raises(ValueError, match=f"got {len(values)}"):
        bootstrap_mean(torch.tensor(values))


def test_a_tie_is_half_a_win():
    # A win, a loss, two ties: (1 + 0 + 0.5 + 0.5) / 4.
    estimate = win_rate(torch.tensor([2.0, 0.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 1.0, 1.0]))
    assert estimate.mean == 0.5
    assert 0 <= estimate.low < 0.5 < estimate.high <= 1


scores = st.lists(st.integers(-3, 3), min_size=1, max_size=20)


@CASES
@given(scores, st.randoms(use_true_random=False))
def test_win_rates_of_the_two_sides_add_up_to_1(ours: list[int], random):
    theirs = [random.randint(-3, 3) for _ in ours]
    a, b = torch.tensor(ours).float(), torch.tensor(theirs).float()
    assert win_rate(a, b, resamples=10).mean + win_rate(b, a, resamples=10).mean == pytest.approx(1)


def test_win_rate_refuses_what_cannot_be_compared():
    with pytest.raises(ValueError, match="differ in shape"):
        win_rate(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="finite"):
        win_rate(torch.tensor([math.nan]), torch.zeros(1))


def test_calibration_error_by_hand():
    # Two bins. Lower: said 0.2 and 0.4, one of two happened: |0.5 - 0.3| = 0.2, of half the events.
    # Upper: said 0.9 and 0.7, both happened: |1 - 0.8| = 0.2, of the other half. Together 0.2.
    probabilities, outcomes = torch.tensor([0.2, 0.4, 0.9, 0.7]), torch.tensor([0, 1, 1, 1])
    assert expected_calibration_error(probabilities, outcomes, bins=2) == pytest.approx(0.2, abs=1e-6)
    # One bin: said 0.55 on average, 0.75 happened.
    assert expected_calibration_error(probabilities, outcomes, bins=1) == pytest.approx(0.2, abs=1e-6)
    # Four bins: [0.2], [0.4], [0.7], [0.9] alone: (0.2 + 0.6 + 0.3 + 0.1) / 4.
    assert expected_calibration_error(probabilities, outcomes, bins=4) == pytest.approx(0.3, abs=1e-6)


def test_certainty_belongs_to_the_last_bin():
    assert expected_calibration_error(torch.ones(3), torch.ones(3)) == 0
    assert expected_calibration_error(torch.zeros(3), torch.ones(3)) == 1


@CASES
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=30), st.integers(1, 12))
def test_calibration_error_equals_the_slow_version(events: list[tuple[float, bool]], bins: int):
    expected = 0.0
    for index in range(bins):
        inside = [(p, o) for p, o in events if min(int(p * bins), bins - 1) == index]
        if inside:
            said = sum(p for p, _ in inside) / len(inside)
            happened = sum(o for _, o in inside) / len(inside)
            expected += len(inside) / len(events) * abs(happened - said)
    probabilities = torch.tensor([p for p, _ in events], dtype=torch.float64)
    outcomes = torch.tensor([o for _, o in events])
    assert expected_calibration_error(probabilities, outcomes, bins=bins) == pytest.approx(expected, abs=1e-9)


def test_calibration_of_margins():
    # Margins of +-log 3: sure to 0.75, right three times in four: calibrated.
    sure = math.log(3)
    assert margin_calibration_error(torch.tensor([sure, sure, sure, -sure])) == pytest.approx(0, abs=1e-6)
    # Always right at 0.75: too modest by 0.25; always undecided: 0.5 and half right.
    assert margin_calibration_error(torch.tensor([sure, sure])) == pytest.approx(0.25, abs=1e-6)
    assert margin_calibration_error(torch.zeros(5)) == 0


def test_calibration_refuses_what_is_no_probability():
    for probabilities in ([], [1.5], [math.nan]):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            expected_calibration_error(torch.tensor(probabilities), torch.ones(len(probabilities)))


def test_masked_values_never_matter():
    values, mask = torch.tensor([[1.0, math.nan], [3.0, math.inf]]), torch.tensor([[True, False]] * 2)
    assert masked_mean(values, mask).item() == 2
    with pytest.raises(ValueError, match="at least one"):
        masked_mean(values, ~mask & mask)
