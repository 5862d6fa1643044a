import math

import pytest

torch = pytest.importorskip("torch")

from compose_rl.core import logprobs  # noqa: E402
from compose_rl.core.logprobs import linear_logprobs, linear_logprobs_and_entropies  # noqa: E402

VOCAB = 11
ROW = VOCAB * 8  # bytes of a row of probabilities in float64


def tensors(rows=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*shape, dtype=dtype, generator=generator, requires_grad=True)
        for shape in ((rows, 5), (VOCAB, 5), (VOCAB,))
    )
    return hidden, weight, bias, torch.randint(0, VOCAB, (rows,), generator=generator)


def plain(hidden, weight, targets, temperature=1.0, bias=None):
    logits = hidden @ weight.T + (0 if bias is None else bias)
    return torch.log_softmax(logits / temperature, dim=-1).gather(1, targets[:, None]).squeeze(1)


def test_a_value_by_hand():
    # Logits 1 and 3 at temperature 2: log(e^1.5 / (e^0.5 + e^1.5)) = -log(1 + e^-1).
    out = linear_logprobs(
        torch.tensor([[1.0]]), torch.tensor([[1.0], [3.0]]), torch.tensor([1]), temperature=2.0
    )
    assert out.item() == pytest.approx(-0.3132617, abs=1e-6)


@pytest.mark.parametrize("kept_rows", [0, 3, 100])
@pytest.mark.parametrize("with_bias", [False, True])
def test_values_and_gradients_are_those_of_plain_log_softmax(monkeypatch, kept_rows, with_bias):
    monkeypatch.setattr(logprobs, "_CHUNK_BYTES", 2 * VOCAB * 4)  # blocks of two rows
    hidden, weight, bias, targets = tensors()
    bias = bias if with_bias else None
    inputs = [x for x in (hidden, weight, bias) if x is not None]
    upstream = torch.linspace(-1, 2, len(targets), dtype=torch.float64)
    ours = linear_logprobs(hidden, weight, targets, temperature=0.7, bias=bias, memory_budget=kept_rows * ROW)
    expected = plain(hidden, weight, targets, 0.7, bias)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(
        torch.autograd.grad((ours * upstream).sum(), inputs),
        torch.autograd.grad((expected * upstream).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_an_entropy_by_hand():
    # Logits 0, 0 and 2 log 2 at temperature 2: probabilities 1/4, 1/4, 1/2.
    weight = torch.tensor([[0.0], [0.0], [2 * math.log(2)]])
    logprobs, entropies = linear_logprobs_and_entropies(
        torch.tensor([[1.0]]), weight, torch.tensor([2]), temperature=2.0
    )
    assert logprobs.item() == pytest.approx(-math.log(2), abs=1e-6)
    assert entropies.item() == pytest.approx(1.5 * math.log(2), abs=1e-6)


@pytest.mark.parametrize("kept_rows", [0, 3, 100])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("used", ["both", "logprobs", "entropies"])
def test_entropies_and_their_gradients_are_those_of_plain_log_softmax(
    monkeypatch, kept_rows, with_bias, used
):
    for size in ("_CHUNK_BYTES", "_CACHE_BYTES"):
        monkeypatch.setattr(logprobs, size, 2 * VOCAB * 4)  # blocks of two rows
    hidden, weight, bias, targets = tensors()
    bias = bias if with_bias else None
    inputs = [x for x in (hidden, weight, bias) if x is not None]
    ours = linear_logprobs_and_entropies(
        hidden, weight, targets, temperature=0.7, bias=bias, memory_budget=kept_rows * ROW
    )
    logits = hidden @ weight.T + (0 if bias is None else bias)
    expected = (
        plain(hidden, weight, targets, 0.7, bias),
        torch.distributions.Categorical(logits=logits / 0.7).entropy(),
    )
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    upstream = torch.linspace(-1, 2, len(targets), dtype=torch.float64)
    sides = {"both": (0, 1), "logprobs": (0,), "entropies": (1,)}[used]
    for mine, theirs in zip(
        torch.autograd.grad(sum((ours[i] * upstream.roll(i)).sum() for i in sides), inputs),
        torch.autograd.grad(sum((expected[i] * upstream.roll(i)).sum() for i in sides), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kept_rows", [0, 2, 100])
def test_gradcheck_with_entropies(kept_rows):
    hidden, weight, bias, targets = tensors(rows=4)
    assert torch.autograd.gradcheck(
        lambda h, w, b: linear_logprobs_and_entropies(
            h, w, targets, temperature=1.3, bias=b, memory_budget=kept_rows * ROW
        ),
        (hidden, weight, bias),
    )


def test_entropies_that_are_only_looked_at_cost_the_backward_nothing(monkeypatch):
    monkeypatch.setattr(logprobs, "_falls", None)  # Made only where an entropy has a gradient.
    hidden, weight, _, targets = tensors()
    linear_logprobs_and_entropies(hidden, weight, targets)[0].sum().backward()
    expected = torch.autograd.grad(plain(hidden, weight, targets).sum(), weight)[0]
    torch.testing.assert_close(weight.grad, expected, rtol=1e-12, atol=1e-12)


def test_a_frozen_output_layer_gives_the_gradient_of_entropies_too():
    hidden, weight, _, targets = tensors()
    logits = hidden @ weight.detach().T
    (expected,) = torch.autograd.grad(torch.distributions.Categorical(logits=logits).entropy().sum(), hidden)
    _, entropies = linear_logprobs_and_entropies(hidden, weight.detach(), targets)
    torch.testing.assert_close(
        torch.autograd.grad(entropies.sum(), hidden)[0], expected, rtol=1e-12, atol=1e-12
    )


def test_a_certain_token_has_entropy_0_and_a_finite_gradient():
    hidden = torch.tensor([[400.0]], requires_grad=True)
    _, entropies = linear_logprobs_and_entropies(hidden, torch.tensor([[0.0], [1.0]]), torch.tensor([1]))
    entropies.sum().backward()
    assert entropies.item() == 0.0
    assert hidden.grad.item() == 0.0


@pytest.mark.parametrize("kept_rows", [0, 2, 100])
def test_gradcheck(kept_rows):
    hidden, weight, bias, targets = tensors(rows=4)
    assert torch.autograd.gradcheck(
        lambda h, w, b: linear_logprobs(
            h, w, targets, temperature=1.3, bias=b, memory_budget=kept_rows * ROW
        ),
        (hidden, weight, bias),
    )


def test_a_frozen_output_layer_gives_the_same_gradient_and_keeps_nothing():
    hidden, weight, _, targets = tensors()
    (expected,) = torch.autograd.grad(plain(hidden, weight, targets).sum(), hidden)
    out = linear_logprobs(hidden, weight.detach(), targets)
    # hidden, weight, targets, expected embeddings; the kept probabilities are empty.
    assert max(x.numel() for x in out.grad_fn.saved_tensors if x is not None) <= VOCAB * 5
    torch.testing.assert_close(torch.autograd.grad(out.sum(), hidden)[0], expected, rtol=1e-12, atol=1e-12)


def test_improbable_targets_keep_their_digits():
    # exp(-100) is a denormal number with few digits, exp(-300) is zero.
    hidden, weight = torch.tensor([[300.0], [100.0], [300.0]]), torch.tensor([[0.0], [1.0]])
    out = linear_logprobs(hidden, weight, torch.tensor([0, 0, 1]))
    assert out.tolist() == [-300.0, -100.0, 0.0]


def test_no_argument_is_changed():
    hidden, weight, bias, targets = tensors()
    before = [x.detach().clone() for x in (hidden, weight, bias)]
    linear_logprobs(hidden, weight, targets, bias=bias, temperature=0.5).sum().backward()
    for argument, old in zip((hidden, weight, bias), before, strict=True):
        assert torch.equal(argument, old)


def test_bfloat16_sums_in_single_precision():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(40, 64, generator=generator).bfloat16().requires_grad_()
    weight = (0.1 * torch.randn(500, 64, generator=generator)).bfloat16().requires_grad_()
    targets = torch.randint(0, 500, (40,), generator=generator)
    out = linear_logprobs(hidden, weight, targets, memory_budget=20 * 500 * 2)
    exact_inputs = [x.detach().float().requires_grad_() for x in (hidden, weight)]
    exact = plain(*exact_inputs, targets)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, exact, rtol=0, atol=0.01)
    for mine, theirs in zip(
        torch.autograd.grad(out.sum(), (hidden, weight)),
        torch.autograd.grad(exact.sum(), exact_inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine.float(), theirs, rtol=0.02, atol=0.02)


def test_under_autocast_the_result_stays_float32_and_gradients_keep_the_weights_dtype():
    hidden, weight, _, targets = tensors(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = linear_logprobs(hidden, weight, targets)
    assert out.dtype == torch.float32
    out.sum().backward()
    assert weight.grad.dtype == torch.float32
    torch.testing.assert_close(out, plain(hidden, weight, targets), rtol=0.05, atol=0.05)


def test_no_rows_give_no_log_probs():
    hidden, weight, _, targets = tensors(rows=0)
    out = linear_logprobs(hidden, weight, targets)
    assert out.shape == (0,)
    out.sum().backward()
    assert weight.grad.abs().sum() == 0


def test_temperature_must_be_positive():
    hidden, weight, _, targets = tensors()
    with pytest.raises(ValueError, match="temperature"):
        linear_logprobs(hidden, weight, targets, temperature=0.0)
