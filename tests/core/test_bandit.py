"""Every algorithm finds the best arm of a bandit, or the best mixture of arms where something pulls it.

The policy is a softmax over logits, an answer is two tokens (an arm, and an end that is certain), and the
rest is what the loop does: samples, advantages, token weights, loss, optimizer.
"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from compose_rl.config.online_rl import OnlineLossName, OnlineRLSettings  # noqa: E402
from compose_rl.core.advantages import ADVANTAGES, gae, optimal_value, whiten  # noqa: E402
from compose_rl.core.aggregation import expand, token_weights  # noqa: E402
from compose_rl.core.losses.policy import POLICY_LOSSES, PolicyTokens, ValueTokens  # noqa: E402
from compose_rl.core.losses.value import value_loss  # noqa: E402

MEANS = torch.tensor([0.1, 0.9, 0.3, 0.5])
ANSWERS, GROUP = 64, 8
LENGTHS = torch.full((ANSWERS,), 2)
IDS = expand(torch.arange(ANSWERS), LENGTHS)


def per_token(first: torch.Tensor, second: float = 0.0) -> torch.Tensor:
    return torch.stack([first, torch.full_like(first, second)], dim=1).flatten()


def train(settings: OnlineRLSettings, *, steps: int, rate: float, **more: torch.Tensor) -> torch.Tensor:
    """The policy's probabilities after ``steps`` iterations of two optimizer steps each."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(4, requires_grad=True)
    state_value = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([logits, state_value], lr=rate)
    reference = torch.log_softmax(torch.zeros(4), 0)
    for _ in range(steps):
        old = torch.log_softmax(logits.detach(), 0)
        arms = torch.multinomial(old.exp(), ANSWERS, replacement=True, generator=generator)
        noise = 0.1 * torch.randn(ANSWERS, generator=generator)
        rewards = MEANS[arms] + noise * (settings.loss_type != "apo")
        counting = torch.ones(ANSWERS)
        values = per_token(state_value.detach().expand(ANSWERS))
        if settings.has_critic:
            points = torch.stack([torch.zeros(ANSWERS), rewards], dim=1).flatten()  # At the answer's end.
            advantages, returns = gae(points, values, LENGTHS, gamma=1.0, lambda_gae=1.0)
            advantages = whiten(advantages, per_token(counting))
        elif settings.loss_type in ADVANTAGES:
            groups = torch.arange(ANSWERS) // GROUP
            advantages = expand(ADVANTAGES[settings.loss_type](rewards, groups, counting, settings), LENGTHS)
        else:
            advantages = torch.zeros(2 * ANSWERS)
        weights = token_weights(LENGTHS, counting, settings.aggregation, 2)
        for _ in range(2):
            current = torch.log_softmax(logits, 0)
            result = POLICY_LOSSES[settings.loss_type](
                PolicyTokens(
                    logps=per_token(current[arms]),
                    old_logps=per_token(old[arms]),
                    ref_logps=per_token(reference[arms]),
                    advantages=advantages,
                    weights=weights,
                    answer_ids=IDS,
                    answer_weights=counting,
                    entropies=per_token(-(current.exp() * current).sum().expand(ANSWERS)),
                    rewards=rewards,
                    **more,
                ),
                settings,
            )
            loss = result.loss
            if settings.has_critic:
                critic = ValueTokens(
                    values=per_token(state_value.expand(ANSWERS)),
                    old_values=values,
                    returns=returns,
                    weights=weights * per_token(counting),
                    answer_weights=counting,
                )
                loss = loss + value_loss(critic, settings).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return torch.softmax(logits.detach(), 0)


@pytest.mark.parametrize("loss_type", ["ppo", "grpo", "gspo", "rloo", "cispo"])
def test_the_best_arm_is_found(loss_type: OnlineLossName):
    settings = OnlineRLSettings(loss_type=loss_type, kl_estimator="k3")
    assert train(settings, steps=60, rate=0.1)[1] > 0.95


def test_apo_finds_the_optimum_of_reward_and_pull():
    # The maximum of E[r] - beta KL(pi || reference) is reference * exp(r / beta), normalised.
    beta = 0.5
    settings = OnlineRLSettings(loss_type="apo", beta=beta)
    vstar = optimal_value(MEANS[None], beta).expand(ANSWERS)
    found = train(settings, steps=150, rate=0.05, vstar=vstar)
    torch.testing.assert_close(found, torch.softmax(MEANS / beta, 0), rtol=0, atol=0.02)


@pytest.mark.parametrize("loss_type", ["grpo", "rloo"])
def test_kl_in_the_loss_holds_the_policy_at_the_optimum_of_both(loss_type: OnlineLossName):
    # k2's gradient is that of KL(pi || reference), so the optimum is that of apo with beta = kl_coef. (The
    # second token has neither choice nor KL, which halves both terms.)
    coef = 0.5
    more: dict[str, Any] = {} if loss_type == "rloo" else {"normalize_advantage": False}
    settings = OnlineRLSettings(loss_type=loss_type, kl_estimator="k2", **more)
    found = train(settings, steps=100, rate=0.04, kl_coef=torch.tensor(coef))
    torch.testing.assert_close(found, torch.softmax(MEANS / coef, 0), rtol=0, atol=0.08)


def test_an_entropy_bonus_keeps_the_policy_mixed():
    greedy = train(OnlineRLSettings(loss_type="rloo"), steps=60, rate=0.1)
    mixed = train(OnlineRLSettings(loss_type="rloo", entropy_loss_weight=0.5), steps=60, rate=0.1)
    # The maximum of E[r] + w H(pi) is softmax(r / w).
    torch.testing.assert_close(mixed, torch.softmax(MEANS / 0.5, 0), rtol=0, atol=0.08)
    assert greedy.max() > mixed.max() + 0.2
