"""The choice of tokens against distributions that are written down otherwise."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from compose_rl.errors import UserError  # noqa: E402
from compose_rl.rollouts.sampling import draw, uniform_numbers  # noqa: E402
from compose_rl.rollouts.types import Sampling  # noqa: E402

DRAWS = 8_000


def sampling(**changes: object) -> Sampling:
    return Sampling(**({"max_new_tokens": 1, "temperature": 1.0, "stop": ()} | changes))


def logits(size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(size)) * 2


def filtered(values: torch.Tensor, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """The distribution by its definition, token by token."""
    probabilities = (values.double() / temperature).softmax(-1).tolist()
    order = sorted(range(len(probabilities)), key=lambda token: -probabilities[token])
    order = order[: top_k or len(order)]
    whole = sum(probabilities[token] for token in order)
    kept, mass = [], 0.0
    for token in order:
        if mass >= top_p:
            break
        kept.append(token)
        mass += probabilities[token] / whole
    result = torch.zeros(len(probabilities), dtype=torch.float64)
    result[kept] = torch.tensor([probabilities[token] for token in kept], dtype=torch.float64)
    return result / result.sum()


def chi_square(tokens: torch.Tensor, expected: torch.Tensor) -> float:
    """(statistic - degrees of freedom) / sqrt(2 degrees of freedom): about standard normal.

    Tokens that are expected less than 5 times count as one.
    """
    counts = torch.bincount(tokens, minlength=len(expected)).double()
    assert counts[expected == 0].sum() == 0, "a token outside the filter was drawn"
    means = expected * len(tokens)
    rare = means < 5
    observed = torch.cat([counts[~rare], counts[rare].sum()[None]])
    means = torch.cat([means[~rare], means[rare].sum()[None]])
    observed, means = observed[means > 0], means[means > 0]
    freedom = max(len(means) - 1, 1)
    return (((observed - means) ** 2 / means).sum().item() - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize("size", [7, 300, 1500])
@pytest.mark.parametrize(
    "temperature, top_k, top_p",
    [
        (1.0, 0, 1.0),
        (0.6, 0, 1.0),
        (1.7, 0, 1.0),
        (1.0, 5, 1.0),
        (0.8, 0, 0.7),
        (3.0, 0, 0.99),
        (1.2, 6, 0.8),
    ],
)
def test_tokens_follow_the_distribution(size: int, temperature: float, top_k: int, top_p: float):
    values = logits(size)
    tokens, logprobs = draw(
        values.expand(DRAWS, size).clone(),
        uniform_numbers(11, DRAWS),
        sampling(temperature=temperature, top_k=top_k, top_p=top_p),
    )
    assert chi_square(tokens, filtered(values, temperature, top_k, top_p)) < 4
    # Of the whole distribution, whatever the filter.
    expected = (values.double() / temperature).log_softmax(-1)
    torch.testing.assert_close(logprobs.double(), expected[tokens], atol=1e-5, rtol=1e-5)


def test_a_row_does_not_depend_on_the_others():
    values = torch.randn(6, 700, generator=torch.Generator().manual_seed(1)) * 3
    numbers = uniform_numbers(2, 6)
    for settings in (sampling(), sampling(top_k=9, top_p=0.9), sampling(top_p=0.5)):
        together, logprobs = draw(values.clone(), numbers, settings)
        for row in range(6):
            alone, logprob = draw(values[row : row + 1].clone(), numbers[row : row + 1], settings)
            assert alone[0] == together[row]
            assert logprob[0] == logprobs[row]


def test_temperature_0_is_the_limit_of_small_ones():
    values = torch.randn(5, 300, generator=torch.Generator().manual_seed(4))
    expected = values.argmax(-1)
    for settings in ({"temperature": 0.0}, {"temperature": 0.0, "top_p": 0.5}, {"temperature": 1e-4}):
        tokens, logprobs = draw(values.clone(), uniform_numbers(3, 5), sampling(**settings))
        assert torch.equal(tokens, expected)
        torch.testing.assert_close(logprobs, torch.zeros(5), atol=1e-6, rtol=0)


def test_the_ends_of_the_unit_interval_are_the_first_and_the_last_possible_token():
    values = torch.full((2, 600), -float("inf"))
    values[:, [37, 290]] = 0.0
    tokens, logprobs = draw(values, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), sampling())
    assert tokens.tolist() == [37, 290]
    torch.testing.assert_close(logprobs, torch.full((2,), -0.6931472))


def test_bfloat16_logits_stay_as_they_are():
    values = logits(50).bfloat16()[None]
    before = values.clone()
    draw(values, uniform_numbers(1, 1), sampling(temperature=0.5))
    assert torch.equal(values, before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("settings", [{}, {"top_k": 3}, {"temperature": 0.0}])
def test_logits_that_are_no_numbers_are_refused(bad: float, settings: dict[str, float]):
    values = logits(30)[None].clone()
    values[0, 4] = bad
    with pytest.raises(UserError, match="NaN or infinite"):
        draw(values, uniform_numbers(1, 1), sampling(**settings))
