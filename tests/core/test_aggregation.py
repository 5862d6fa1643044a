"""What a token weighs: each aggregation by hand, and cut into microbatches."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from compose_rl.core.aggregation import answer_means, expand, token_weights  # noqa: E402

LENGTHS = torch.tensor([1, 3, 4])
LOSSES = torch.tensor([6.0, 1.0, 2.0, 3.0, 100.0, 100.0, 100.0, 100.0])
WEIGHTS = torch.tensor([1.0, 1.0, 0.0])
"""The last answer is not learnt from."""


@pytest.mark.parametrize(
    "aggregation, value",
    [("sequence_mean", (6 + 2) / 2), ("token_mean", (6 + 1 + 2 + 3) / 4), ("constant", (6 + 6) / 10 / 2)],
)
def test_each_aggregation_by_hand(aggregation, value: float):
    weights = token_weights(LENGTHS, WEIGHTS, aggregation, max_gen_len=10)
    assert ((weights * LOSSES).sum() / 2).item() == pytest.approx(value, rel=1e-6)


ANSWERS = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 1)), min_size=1, max_size=10)


@given(ANSWERS, st.sampled_from(["sequence_mean", "token_mean", "constant"]), st.data())
def test_a_minibatch_has_the_same_loss_however_it_is_cut(rows, aggregation, data):
    lengths, counting = (torch.tensor(column) for column in zip(*rows, strict=True))
    weights = token_weights(lengths, counting.float(), aggregation, max_gen_len=5)
    terms = weights * torch.linspace(-1, 2, len(weights))
    answers = expand(torch.arange(len(rows)), lengths)
    whole = terms.sum() / counting.sum().clamp(min=1)
    part_of = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows))))
    total = torch.tensor(0.0)
    for part in range(4):
        own = counting[part_of == part].sum()  # What Composer weighs a microbatch by.
        loss = terms[part_of[answers] == part].sum() / own.clamp(min=1)
        total += loss * own / counting.sum().clamp(min=1)
    torch.testing.assert_close(total, whole, rtol=1e-5, atol=1e-6)


def test_answers_that_all_do_not_count_weigh_nothing():
    for aggregation in "sequence_mean", "token_mean", "constant":
        assert token_weights(LENGTHS, torch.zeros(3), aggregation, 10).tolist() == [0.0] * 8


def test_means_of_answers():
    assert answer_means(LOSSES, expand(torch.arange(3), LENGTHS), 4).tolist() == [6.0, 2.0, 100.0, 0.0]
