"""Online RL computes nothing whose result is known."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from compose_rl.config.online_rl import OnlineRLSettings, OnlineVariables
from compose_rl.rollouts.types import Completion
from compose_rl.training.online.answers import Answered, Answers
from compose_rl.training.online.experience import build_experience, needs_of

MANY = {"epoch_per_iteration": 2}
OFF = {"kl_controller": {"init_kl_coef": 0.0}}
MOVES = {"kl_controller": {"kl_ctl_type": "pid", "init_kl_coef": 0.0}}
IN_REWARDS = {"compute_kl_loss": False}
ENGINE = {"old_logprobs": "engine"}


@pytest.mark.parametrize(
    ("settings", "variables", "unmoved", "old", "values", "reference"),
    [
        # One minibatch and one pass: the update gives the old log-probabilities.
        ({"loss_type": "grpo"}, OFF, False, False, False, False),
        ({"loss_type": "grpo"}, {}, False, False, False, True),
        ({"loss_type": "grpo"}, {}, True, False, False, False),
        ({"loss_type": "grpo"}, MANY, False, True, False, True),
        # The reference is the policy, whose log-probabilities are computed anyway.
        ({"loss_type": "grpo"}, MANY, True, True, False, False),
        ({"loss_type": "grpo"}, MANY | OFF, False, True, False, False),
        ({"loss_type": "grpo"}, MANY | ENGINE, False, False, False, True),
        # Its second step has a KL to the reference, from log-probabilities that are both.
        ({"loss_type": "grpo"}, MANY | ENGINE, True, True, False, False),
        # A controller that moves may make a weight of 0 another one.
        ({"loss_type": "grpo"}, MOVES, False, False, False, True),
        ({"loss_type": "ppo"}, OFF, False, False, True, False),
        ({"loss_type": "ppo"} | IN_REWARDS, {}, False, True, True, True),
        ({"loss_type": "ppo"} | IN_REWARDS, {}, True, False, True, False),
        # Its loss has the log-ratio to the reference, which at first is 0 and moves with the policy.
        ({"loss_type": "apo"}, {}, True, True, False, False),
        ({"loss_type": "apo"}, OFF, False, False, False, True),
        # The gradient of k1 is not 0 where the KL is.
        ({"loss_type": "grpo", "kl_estimator": "k1", "compat": True}, {}, True, True, False, False),
    ],
)
def test_only_what_is_needed_is_computed(
    settings: dict[str, Any],
    variables: dict[str, Any],
    unmoved: bool,
    old: bool,
    values: bool,
    reference: bool,
) -> None:
    needs = needs_of(
        OnlineRLSettings.model_validate(settings),
        OnlineVariables.model_validate({"max_gen_len": 4, "num_unique_prompts_per_iter": 2} | variables),
        unmoved=unmoved,
    )
    assert (needs.old, needs.values, needs.reference) == (old, values, reference)


def test_controllers_steer_by_a_divergence_whatever_the_penalty_is_made_of() -> None:
    # k3_offpolicy has mean 0 under the policy: by it every KL would be on target.
    old, reference = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    one = Completion(tokens=(7,), logprobs=(0.0,), finished=True, version=0)
    prompt = SimpleNamespace(index=0, tokens=(3,))
    answers = Answers(
        [Answered(prompt, (one, one), ("a", "b"), ((0.0,), (0.0,)), {}, (False, False))],
    )
    experience, figures = build_experience(
        answers,
        {"old_logps": old, "ref_logps": reference},
        OnlineRLSettings(loss_type="rloo", compute_kl_loss=False, kl_estimator="k3_offpolicy"),
        OnlineVariables.model_validate({"max_gen_len": 4, "num_unique_prompts_per_iter": 1}),
        kl_coef=2.0,
        vstar=None,
    )
    assert experience.answer_rewards.tolist() == pytest.approx([-2 * (1 - 0.5), -2 * (1 - 1.5)])
    log_ratios = [math.log(0.5), math.log(1.5)]
    assert figures["kl"].tolist() == pytest.approx([math.exp(r) - 1 - r for r in log_ratios])
