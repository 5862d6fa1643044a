"""The figures of an evaluation against values by hand."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from compose_rl.evaluation.measures import Interval, Sides, figures, kl_figures, pair_figures  # noqa: E402

INTERVAL = Interval(confidence=0.95, resamples=500, seed=1)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_pair_figures_count_a_tie_as_half() -> None:
    # Margins 1, -2, 0, 3: two right, one wrong, one tie: 2.5 / 4. Mean margin 2 / 4.
    found = pair_figures("policy", column(1, 0, 5, 3), column(0, 2, 5, 0))
    assert found == {"policy/accuracy": 0.625, "policy/margin": 0.5}


def test_a_win_rate_is_of_the_policy_over_the_baseline() -> None:
    # Policy wins the first two, ties the third, loses the fourth: 2.5 / 4.
    found = figures({"verifier": Sides(policy=column(1, 1, 0, 0), baseline=column(0, 0, 0, 1))}, INTERVAL)
    assert found["win_rate/verifier"] == 0.625
    assert found["verifier/policy"] == 0.5
    assert found["verifier/baseline"] == 0.25
    assert 0 <= found["win_rate/verifier_low"] < 0.625 < found["win_rate/verifier_high"] <= 1


def test_nothing_judged_gives_no_figures() -> None:
    assert figures({}, INTERVAL) == {}


def test_kl_is_of_the_policy_from_the_baseline_over_the_policys_samples() -> None:
    # log policy(y) - log baseline(y): 2, 1, 0: mean 1.
    found = kl_figures(column(-1, -2, -3), column(-3, -3, -3), INTERVAL)
    assert found["kl/policy_baseline"] == pytest.approx(1.0, abs=1e-12)


def test_equal_models_have_no_kl_and_win_half() -> None:
    same = column(-1, -2, -3)
    assert set(kl_figures(same, same, INTERVAL).values()) == {0.0}
    assert figures({"reward_model": Sides(same, same)}, INTERVAL)["win_rate/reward_model"] == 0.5
