"""Estimates of a KL divergence against the divergence itself."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from compose_rl.core.kl import KL_ESTIMATORS, estimate_kl  # noqa: E402

P = torch.tensor([0.9, 0.06, 0.04], dtype=torch.float64)
Q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
KL_PQ = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
KL_QP = 0.5 * math.log(5 / 9) + 0.5 * math.log(5)


@pytest.mark.parametrize(
    "name, value",
    [
        ("k1", math.log(4)),
        ("k2", math.log(4) ** 2 / 2),
        ("k3", 0.25 - 1 + math.log(4)),
        ("k3_offpolicy", 0.75),
    ],
)
def test_a_token_by_hand(name: str, value: float):
    # p = 1/2, q = 1/8: log q - log p = -log 4.
    estimate = estimate_kl(torch.tensor([0.5]).log(), torch.tensor([0.125]).log(), name, 40.0)
    assert estimate.item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("name, mean", [("k1", KL_PQ), ("k3", KL_PQ), ("k3_offpolicy", 0.0)])
def test_the_mean_under_p_is_the_divergence_from_p_to_q(name: str, mean: float):
    assert abs(KL_PQ - KL_QP) > 0.05  # So that the wrong direction is noticed.
    assert (P * estimate_kl(P.log(), Q.log(), name, 40.0)).sum().item() == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("name", KL_ESTIMATORS)
def test_equal_policies_have_exactly_0(name: str):
    assert estimate_kl(P.log(), P.log(), name, 40.0).tolist() == [0.0, 0.0, 0.0]


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=8), st.floats(-5, 5), st.sampled_from(["k2", "k3"]))
def test_k2_and_k3_are_never_negative(logps: list[float], shift: float, name: str):
    tokens = torch.tensor(logps, dtype=torch.float64)
    assert (estimate_kl(tokens, tokens + shift, name, 40.0) >= 0).all()


def test_log_ratios_are_clipped_on_both_sides():
    p, q = torch.tensor([0.0, -100.0]), torch.tensor([-100.0, 0.0])
    assert estimate_kl(p, q, "k1", 2.0).tolist() == [2.0, -2.0]


def gradient(objective) -> torch.Tensor:
    logits = P.log().requires_grad_()
    return torch.autograd.grad(objective(torch.log_softmax(logits, 0)), logits)[0]


def expected_gradient(name: str) -> torch.Tensor:
    """Of the estimator as a loss: mean over tokens that p drew, which the gradient does not see."""
    return gradient(lambda logps: (P * estimate_kl(logps, Q.log(), name, 40.0)).sum())


def test_as_a_loss_k2_lowers_the_divergence_to_the_reference_and_k3_the_one_from_it():
    to_reference = gradient(lambda logps: (logps.exp() * (logps - Q.log())).sum())
    from_reference = gradient(lambda logps: (Q * (Q.log() - logps)).sum())
    torch.testing.assert_close(expected_gradient("k2"), to_reference)
    torch.testing.assert_close(expected_gradient("k3"), from_reference)


def test_as_a_loss_k1_does_nothing_and_k3_offpolicy_harm():
    torch.testing.assert_close(expected_gradient("k1"), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(expected_gradient("k3_offpolicy"), -expected_gradient("k3"))


def penalty_gradient(name: str, reference: torch.Tensor = Q) -> torch.Tensor:
    """Of the estimator in the rewards, in expectation: a number that multiplies its token's log p."""
    penalty = estimate_kl(P.log(), reference.log(), name, 40.0)
    return gradient(lambda logps: (P * penalty * logps).sum())


def test_in_the_rewards_k1_and_k3_offpolicy_have_the_gradients_of_k2_and_k3_in_the_loss():
    torch.testing.assert_close(penalty_gradient("k1"), expected_gradient("k2"))
    torch.testing.assert_close(penalty_gradient("k3_offpolicy"), expected_gradient("k3"))
    torch.testing.assert_close(
        penalty_gradient("k3"), penalty_gradient("k1") - penalty_gradient("k3_offpolicy")
    )


@pytest.mark.parametrize("name, order", [("k1", 1), ("k3_offpolicy", 1), ("k2", 2), ("k3", 2)])
def test_in_the_rewards_k2_and_k3_hold_nothing_near_the_reference(name: str, order: int):
    # Half as far from the reference the pull of a KL is half as strong; of these it is a quarter.
    step = torch.tensor([0.004, -0.001, -0.003], dtype=torch.float64)
    far, near = (penalty_gradient(name, P + scale * step).norm() for scale in (1.0, 0.5))
    assert (far / near).item() == pytest.approx(2**order, rel=0.1)
