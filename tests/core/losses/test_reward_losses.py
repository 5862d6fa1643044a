"""Losses of reward models against values worked out by hand, properties, and mutations."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from compose_rl.config.reward_model import RewardLossName  # noqa: E402
from compose_rl.core.losses import REWARD_LOSSES, LabelledScores, PairScores  # noqa: E402

CASES = settings(max_examples=50, deadline=None, derandomize=True)
PAIRWISE = ["bt", "bt_eurus"]


def scores_from(*pairs: tuple[float, float], dtype: torch.dtype = torch.float64) -> PairScores:
    columns = torch.tensor(pairs, dtype=dtype)
    return PairScores(chosen=columns[:, 0], rejected=columns[:, 1])


def labelled(scores: Any, labels: Any) -> LabelledScores:
    return LabelledScores(scores=torch.tensor(scores, dtype=torch.float64), labels=torch.tensor(labels))


# log(1 + e^-1) = 0.3132616875, log(1 + e^-2) = 0.1269280110, log(1 + e^1) = 1.3132616875.
BY_HAND = {
    # two pairs, (2, 1) and (3, 1): the mean of 0.3132616875 and 0.1269280110
    "bt": (scores_from((2.0, 1.0), (3.0, 1.0)), 0.2200948493),
    # 0.3132616875 + 0.1269280110 + 1.3132616875
    "bt_eurus": (scores_from((2.0, 1.0)), 1.7534513860),
    # score 2 labelled 1, score 1 labelled 0: the mean of 0.1269280110 and 1.3132616875
    "bce": (labelled([2.0, 1.0], [1, 0]), 0.7200948493),
}


def check_by_hand(losses: Any) -> None:
    for name, loss in losses.items():
        inputs, expected = BY_HAND[name]
        assert loss(inputs).loss.item() == pytest.approx(expected, abs=1e-9), name


def test_losses_have_the_values_worked_out_by_hand():
    check_by_hand(REWARD_LOSSES)
    assert set(BY_HAND) == set(REWARD_LOSSES) == set(get_args(RewardLossName))


def test_bt_knows_only_differences_and_bt_eurus_the_sign_too():
    near, far = scores_from((2.0, 1.0)), scores_from((102.0, 101.0))
    assert REWARD_LOSSES["bt"](near).loss.item() == pytest.approx(REWARD_LOSSES["bt"](far).loss.item())
    assert REWARD_LOSSES["bt_eurus"](far).loss > REWARD_LOSSES["bt_eurus"](near).loss + 90


@pytest.mark.parametrize("name", PAIRWISE)
def test_a_batch_is_the_weighted_mean_of_its_microbatches(name: str):
    score = st.floats(-10, 10)
    rows = st.lists(st.tuples(score, score), min_size=1, max_size=5)

    @CASES
    @given(rows, rows)
    def check(first: list[tuple[float, float]], second: list[tuple[float, float]]) -> None:
        whole = REWARD_LOSSES[name](scores_from(*first, *second))
        parts = REWARD_LOSSES[name](scores_from(*first)), REWARD_LOSSES[name](scores_from(*second))
        share = len(first) / len(first + second)
        mean = share * parts[0].loss.item() + (1 - share) * parts[1].loss.item()
        assert whole.loss.item() == pytest.approx(mean, rel=1e-9)

    check()


@CASES
@given(st.floats(-30, 30), st.floats(0, 1))
def test_bce_is_the_cross_entropy_of_the_label(score: float, label: float):
    p, q = 1 / (1 + math.exp(-score)), 1 / (1 + math.exp(score))
    expected = -label * math.log(p) - (1 - label) * math.log(q)
    assert REWARD_LOSSES["bce"](labelled([score], [label])).loss.item() == pytest.approx(
        expected, rel=1e-6, abs=1e-9
    )


def test_bce_means_over_labels_and_then_over_texts():
    output = REWARD_LOSSES["bce"](labelled([[2.0, 1.0], [2.0, 1.0]], [[1, 0], [1, 0]]))
    assert output.loss.item() == pytest.approx(0.7200948493)
    assert output.metrics["accuracy"].item() == 0.5


def test_bce_refuses_labels_of_another_shape():
    # The original read int64 labels as bytes: [B, 8] against [B, 1], which broadcasts into a wrong mean.
    with pytest.raises(ValueError, match=r"labels \(2, 8\)"):
        REWARD_LOSSES["bce"](labelled([[0.0], [1.0]], [[0] * 8] * 2))


def test_metrics_are_named_as_in_the_original():
    metrics = REWARD_LOSSES["bt_eurus"](scores_from((2.0, 1.0), (0.0, 3.0))).metrics
    assert metrics["chosen_rewards"].item() == 1.0
    assert metrics["rejected_rewards"].item() == 2.0
    assert metrics["margin"].item() == -1.0
    assert metrics["accuracy"].item() == 0.5
    assert metrics["bt_loss"].item() == pytest.approx((0.3132616875 + 3.0485873516) / 2)
    assert set(metrics) == {
        "chosen_rewards",
        "rejected_rewards",
        "margin",
        "accuracy",
        "bt_loss",
        "score_loss",
    }


@pytest.mark.parametrize("name", PAIRWISE)
def test_gradients_agree_with_finite_differences_and_stay_finite(name: str):
    chosen, rejected = torch.tensor([[0.3, -1.0], [1.2, 0.4]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda c, r: REWARD_LOSSES[name](PairScores(chosen=c, rejected=r)).loss, (chosen, rejected)
    )
    extreme = torch.tensor([-1e5, 1e5], requires_grad=True)
    REWARD_LOSSES[name](PairScores(chosen=extreme, rejected=-extreme)).loss.backward()
    assert extreme.grad is not None and extreme.grad.isfinite().all()


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("bt", "scores.chosen - scores.rejected", "scores.rejected - scores.chosen"),
        ("bt", "-logsigmoid", "logsigmoid"),
        ("bt_eurus", "logsigmoid(-scores.rejected)", "logsigmoid(scores.rejected)"),
        ("bt_eurus", "bt_losses + score_losses", "bt_losses"),
        ("bce", "(1 - labels) *", "labels *"),
        ("bce", "logsigmoid(-scores)", "logsigmoid(scores)"),
    ],
)
def test_golden_values_notice_a_mutation(name: str, old: str, new: str, rewritten: Any):
    with pytest.raises(AssertionError, match=name):
        check_by_hand({name: rewritten(REWARD_LOSSES[name], old, new)})
