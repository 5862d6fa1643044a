"""Policy losses against values worked out by hand, and what must hold for each."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from compose_rl.config.online_rl import OnlineRLSettings  # noqa: E402
from compose_rl.core.aggregation import expand, token_weights  # noqa: E402
from compose_rl.core.losses.policy import POLICY_LOSSES, PolicyTokens  # noqa: E402

GRADIENT_LOSSES = [name for name in POLICY_LOSSES if name != "apo"]
LENGTHS = [2, 1]


def of(loss_type: str, **more: Any) -> OnlineRLSettings:
    return OnlineRLSettings.model_validate({"loss_type": loss_type} | more)


def log(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def by_hand(**more: Any) -> PolicyTokens:
    """Two answers, of 2 and 1 tokens, with ratios 1.5, 0.5 and 2 and advantages 1, 1 and -2."""
    fields: dict[str, Any] = {
        "logps": log(0.6, 0.2, 0.8),
        "old_logps": log(0.4, 0.4, 0.4),
        "advantages": torch.tensor([1.0, 1.0, -2.0]),
        "weights": torch.tensor([0.5, 0.5, 1.0]),
        "answer_ids": torch.tensor([0, 0, 1]),
        "answer_weights": torch.ones(2),
    }
    return PolicyTokens(**fields | more)


S = math.sqrt(1.5 * 0.5)  # The first answer's ratio, the geometric mean of its tokens'.

GOLDEN = {
    # Tokens: -min(1.5, 1.28), -min(.5, .8), -min(-4, -2.56); answers: (-1.28 - .5) / 2, 4.
    "ppo": (-0.89 + 4) / 2,
    "grpo": (-0.89 + 4) / 2,
    "gspo": (-S + 4) / 2,
    # -1.5 - .5 over two tokens, and 4.
    "rloo": (-1 + 4) / 2,
    # -1.28 log .6, -.5 log .2; 1.28 * 2 log .8.
    "cispo": ((-1.28 * math.log(0.6) - 0.5 * math.log(0.2)) / 2 + 2.56 * math.log(0.8)) / 2,
}
CLIPPED = {"ppo": 0.25, "grpo": 0.25, "gspo": 0.0, "rloo": 0.0, "cispo": 0.75}
"""cispo: the first token and the third are above 1.28; ppo: of the two only the first loses its gradient."""


def clips(name: str) -> dict[str, float]:
    return {} if name == "rloo" else {"policy_clip_high_ratio": 0.28}


@pytest.mark.parametrize("name", GRADIENT_LOSSES)
def test_losses_by_hand(name: str):
    result = POLICY_LOSSES[name](by_hand(), of(name, **clips(name)))
    assert result.loss.item() == pytest.approx(GOLDEN[name], abs=1e-6)
    assert result.metrics["policy_loss"].item() == pytest.approx(GOLDEN[name], abs=1e-6)
    assert result.metrics["clip_fraction"].item() == pytest.approx(CLIPPED[name])
    # k3 of log ratios log 1.5, log .5 and log 2, mean over answers.
    k3 = [ratio - 1 - math.log(ratio) for ratio in (1.5, 0.5, 2.0)]
    assert result.metrics["policy_kl"].item() == pytest.approx(((k3[0] + k3[1]) / 2 + k3[2]) / 2, abs=1e-6)
    assert set(result.metrics) == {"policy_loss", "clip_fraction", "policy_kl"}


def test_apo_by_hand():
    tokens = by_hand(
        ref_logps=log(0.3, 0.2, 0.4), rewards=torch.tensor([1.0, 0.0]), vstar=torch.tensor([0.7, 0.5])
    )
    result = POLICY_LOSSES["apo"](tokens, of("apo", beta=0.5))
    first, second = 0.5 * math.log(2) - 0.3, 0.5 * math.log(2) + 0.5
    assert result.loss.item() == pytest.approx((first**2 + second**2) / 2, abs=1e-6)


@pytest.mark.parametrize("aggregation, value", [("token_mean", 2.22 / 3), ("constant", 2.22 / 8 / 2)])
def test_aggregations_by_hand(aggregation: Any, value: float):
    weights = token_weights(torch.tensor(LENGTHS), torch.ones(2), aggregation, max_gen_len=8)
    chosen = of("grpo", policy_clip_high_ratio=0.28, loss_aggregation=aggregation)
    result = POLICY_LOSSES["grpo"](by_hand(weights=weights), chosen)
    assert result.loss.item() == pytest.approx(value, abs=1e-6)


def test_kl_and_entropy_add_to_the_loss_by_hand():
    tokens = by_hand(
        ref_logps=log(0.3, 0.2, 0.8),
        kl_coef=torch.tensor(0.1),
        entropies=torch.tensor([1.0, 3.0, 0.5]),
    )
    result = POLICY_LOSSES["rloo"](tokens, of("rloo", entropy_loss_weight=0.2))
    kl = 0.1 * (0.5 - 1 + math.log(2)) / 2 / 2  # k3 of the first token, half of its answer.
    assert result.metrics["kl_loss"].item() == pytest.approx(kl, abs=1e-7)
    assert result.metrics["entropy"].item() == pytest.approx(1.25)
    assert result.metrics["policy_loss"].item() == pytest.approx(1.5)
    assert result.loss.item() == pytest.approx(1.5 + kl - 0.2 * 1.25, abs=1e-6)


def test_kl_in_the_rewards_is_not_in_the_loss_too():
    tokens = by_hand(ref_logps=log(0.3, 0.3, 0.3), kl_coef=torch.tensor(0.1))
    result = POLICY_LOSSES["grpo"](tokens, of("grpo", compute_kl_loss=False))
    assert "kl_loss" not in result.metrics
    assert result.loss == result.metrics["policy_loss"]


def test_importance_weights_multiply_the_policy_loss_and_no_other_term():
    more = {"ref_logps": log(0.3, 0.2, 0.8), "kl_coef": torch.tensor(0.1)}
    plain = POLICY_LOSSES["rloo"](by_hand(**more), of("rloo"))
    # old / engine = 2, 0.5 and 4, the last capped at 3.
    tokens = by_hand(engine_logps=log(0.2, 0.8, 0.1), **more)
    result = POLICY_LOSSES["rloo"](tokens, of("rloo", importance_sampling_cap=3.0))
    assert result.metrics["policy_loss"].item() == pytest.approx(((-3 - 0.25) / 2 + 12) / 2, abs=1e-5)
    assert result.metrics["kl_loss"] == plain.metrics["kl_loss"]


@pytest.mark.parametrize("field", ["importance_sampling_cap", "entropy_loss_weight"])
def test_what_a_setting_needs_must_be_there(field: str):
    with pytest.raises(ValueError, match=field):
        POLICY_LOSSES["grpo"](by_hand(), of("grpo", **{field: 1.0}))


def test_apo_needs_its_values():
    with pytest.raises(ValueError, match="vstar"):
        POLICY_LOSSES["apo"](by_hand(), of("apo"))


# --- What holds for any tokens


@st.composite
def tokens_of_answers(draw: st.DrawFn) -> tuple[PolicyTokens, torch.Tensor]:
    """Answers with equal old and new policy, and their lengths."""
    lengths = torch.tensor(draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)))
    counting = torch.tensor(
        draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=len(lengths), max_size=len(lengths)))
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    logps, ref = -torch.rand(2, int(lengths.sum()), generator=generator).double() * 3
    advantages, rewards, vstar = torch.randn(3, len(lengths), generator=generator).double()
    tokens = PolicyTokens(
        logps=logps,
        old_logps=logps.clone(),
        ref_logps=ref,
        advantages=expand(advantages, lengths),
        weights=token_weights(lengths, counting, "sequence_mean", 4).double(),
        answer_ids=expand(torch.arange(len(lengths)), lengths),
        answer_weights=counting,
        kl_coef=torch.tensor(0.3),
        entropies=torch.rand(len(logps), generator=generator).double(),
        rewards=rewards,
        vstar=vstar,
    )
    return tokens, lengths


@given(tokens_of_answers())
@settings(deadline=None, max_examples=25)
def test_a_policy_that_has_not_moved_has_ratio_1_and_kl_0(drawn):
    tokens, _ = drawn
    counting = tokens.answer_weights.sum().clamp(min=1)
    tokens = replace(tokens, ref_logps=tokens.logps.clone())
    for name in GRADIENT_LOSSES:
        logps = tokens.logps.clone().requires_grad_()
        result = POLICY_LOSSES[name](replace(tokens, logps=logps), of(name))
        assert result.metrics["policy_kl"] == 0
        assert result.metrics["kl_loss"] == 0
        assert result.metrics["clip_fraction"] == 0
        if name != "cispo":  # Its value is not -mean A, its gradient is.
            value = -(tokens.weights * tokens.advantages).sum() / counting
            torch.testing.assert_close(result.loss, value)
        (gradient,) = torch.autograd.grad(result.loss, logps)
        torch.testing.assert_close(gradient, -tokens.weights * tokens.advantages / counting)


@given(tokens_of_answers(), st.data())
@settings(deadline=None, max_examples=25)
def test_microbatches_add_up_to_the_minibatch(drawn, data):
    tokens, lengths = drawn
    moved = torch.linspace(-0.5, 0.5, len(tokens.logps)).double()
    tokens = replace(tokens, logps=tokens.logps + moved)
    cut = data.draw(st.integers(0, len(lengths)))
    parts = [torch.arange(cut), torch.arange(cut, len(lengths))]
    counting = tokens.answer_weights.sum().clamp(min=1)
    for name, loss in POLICY_LOSSES.items():
        chosen = of(name, entropy_loss_weight=0.1)
        whole = loss(tokens, chosen)
        results = [loss(part_of(tokens, part), chosen) for part in parts]
        shares = [tokens.answer_weights[part].sum() / counting for part in parts]
        torch.testing.assert_close(
            sum(r.loss * share for r, share in zip(results, shares, strict=True)), whole.loss
        )
        for metric, value in whole.metrics.items():
            total = sum(r.metrics[metric] * share for r, share in zip(results, shares, strict=True))
            torch.testing.assert_close(total, value, rtol=1e-4, atol=1e-6)


def part_of(tokens: PolicyTokens, answers: torch.Tensor) -> PolicyTokens:
    chosen = torch.isin(tokens.answer_ids, answers)
    per_answer = dict.fromkeys(("answer_weights", "rewards", "vstar"), answers)
    per_token = dict.fromkeys(
        ("logps", "old_logps", "ref_logps", "advantages", "weights", "entropies"), chosen
    )
    fields = {
        name: getattr(tokens, name)[rows]
        for name, rows in (per_answer | per_token).items()
        if getattr(tokens, name) is not None
    }
    first = answers[0] if len(answers) else 0
    return replace(tokens, answer_ids=tokens.answer_ids[chosen] - first, **fields)


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_an_answer_that_does_not_count_adds_nothing(name: str):
    more = {"ref_logps": log(0.3, 0.2, 0.4), "vstar": torch.zeros(2), "kl_coef": torch.tensor(0.1)}
    rewards = torch.tensor([1.0, 1e6])
    advantages = torch.tensor([1.0, 1.0, -1e6])
    logps = by_hand().logps.requires_grad_()
    tokens = by_hand(
        **more,
        logps=logps,
        rewards=rewards,
        advantages=advantages,
        weights=torch.tensor([0.5, 0.5, 0.0]),
        answer_weights=torch.tensor([1.0, 0.0]),
    )
    result = POLICY_LOSSES[name](tokens, of(name))
    alone = POLICY_LOSSES[name](part_of(tokens, torch.tensor([0])), of(name))
    torch.testing.assert_close(result.loss, alone.loss)
    torch.testing.assert_close(dict(result.metrics), dict(alone.metrics))
    (gradient,) = torch.autograd.grad(result.loss, logps)
    assert gradient[2] == 0 and (gradient[:2] != 0).any()


# --- Clipping


@pytest.mark.parametrize("name", ["ppo", "grpo", "gspo"])
@pytest.mark.parametrize("advantage, ratio, moves", [(1, 1.3, 0), (1, 0.7, 1), (-1, 1.3, 1), (-1, 0.7, 0)])
def test_beyond_the_clip_there_is_no_gradient_in_the_direction_of_the_advantage(
    name: str, advantage: float, ratio: float, moves: int
):
    logps = log(0.5 * ratio).requires_grad_()
    tokens = PolicyTokens(
        logps=logps,
        old_logps=log(0.5),
        advantages=torch.tensor([float(advantage)]),
        weights=torch.ones(1),
        answer_ids=torch.zeros(1, dtype=torch.int64),
        answer_weights=torch.ones(1),
    )
    (gradient,) = torch.autograd.grad(POLICY_LOSSES[name](tokens, of(name)).loss, logps)
    assert gradient.item() == pytest.approx(-advantage * ratio * moves)


def test_cispo_keeps_the_gradient_of_clipped_tokens():
    logps = by_hand().logps.requires_grad_()
    result = POLICY_LOSSES["cispo"](by_hand(logps=logps), of("cispo", policy_clip_high_ratio=0.28))
    (gradient,) = torch.autograd.grad(result.loss, logps)
    expected = torch.tensor([-1.28 / 2, -0.5 / 2, 2 * 1.28]) / 2
    torch.testing.assert_close(gradient, expected)
