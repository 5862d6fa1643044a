"""Settings of online RL: what a loss does not read is refused, and the original's names are understood."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from compose_rl.config.online_rl import OnlineLossName, OnlineRLSettings, OnlineVariables
from compose_rl.config.schema import parse
from compose_rl.errors import UserError


def settings(**document: Any) -> OnlineRLSettings:
    return parse(OnlineRLSettings, document, "model")


@pytest.mark.parametrize(
    "loss_type, field, value",
    [
        ("apo", "policy_clip_ratio", 0.3),
        ("rloo", "policy_clip_ratio", 0.3),
        ("rloo", "policy_clip_high_ratio", 0.3),
        ("apo", "loss_aggregation", "token_mean"),
        ("rloo", "normalize_advantage", False),
        ("apo", "importance_sampling_cap", 2.0),
        ("grpo", "value_loss_weight", 1.0),
        ("grpo", "value_clip_range", 1.0),
        ("grpo", "joint_actor_critic", False),
        ("grpo", "critic_dropout", 0.1),
        ("ppo", "beta", 0.1),
    ],
)
def test_a_setting_that_the_loss_does_not_read_is_refused(loss_type: str, field: str, value: Any):
    with pytest.raises(UserError, match=f"{field}={value!r}: loss_type='{loss_type}' does not read it, only"):
        settings(loss_type=loss_type, **{field: value})


@pytest.mark.parametrize("loss_type", get_args(OnlineLossName))
def test_every_loss_takes_a_document_that_spells_out_the_defaults(loss_type: str):
    defaults = OnlineRLSettings().model_dump()
    del defaults["length_normalize_policy_loss"]
    assert settings(**defaults | {"loss_type": loss_type}).loss_type == loss_type


def test_what_compose_rl_writes_for_apo_is_understood():
    chosen = settings(
        loss_type="apo",
        beta=1e-3,
        normalize_advantage=True,
        length_normalize_policy_loss=True,
        policy_clip_ratio=0.2,
        compute_kl_loss=False,
        target_kl=100000,
        kl_estimator="k3",
        kl_clip_range=40.0,
    )
    assert chosen.kl_place is None


@pytest.mark.parametrize("estimator", ["k1", "k3_offpolicy"])
def test_an_estimator_without_a_useful_gradient_is_refused_in_the_loss_alone(estimator: str):
    with pytest.raises(UserError, match=f"kl_estimator='{estimator}' in the loss"):
        settings(kl_estimator=estimator)
    assert settings(kl_estimator=estimator, compute_kl_loss=False).kl_place == "rewards"
    assert settings(kl_estimator=estimator, compat=True).kl_place == "loss"
    assert settings(kl_estimator=estimator, loss_type="apo").kl_place is None


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_an_estimator_that_holds_nothing_near_the_reference_is_refused_in_the_rewards_alone(estimator: str):
    with pytest.raises(UserError, match=f"kl_estimator='{estimator}' in the rewards .* use k1"):
        settings(kl_estimator=estimator, compute_kl_loss=False)
    assert settings(kl_estimator=estimator, compute_kl_loss=False, compat=True).kl_estimator == estimator


def test_the_estimator_is_by_default_the_one_that_works_where_it_is_put():
    assert settings().kl_estimator == "k3"
    assert settings(compute_kl_loss=False).kl_estimator == "k1"


@pytest.mark.parametrize("normalize, aggregation", [(True, "sequence_mean"), (False, "constant")])
def test_the_originals_name_of_the_aggregation(normalize: bool, aggregation: str):
    assert settings(length_normalize_policy_loss=normalize).aggregation == aggregation
    with pytest.raises(UserError, match="give one of the two"):
        settings(length_normalize_policy_loss=normalize, loss_aggregation="token_mean")


def test_the_upper_clip_is_the_lower_one_unless_it_is_set():
    assert settings(policy_clip_ratio=0.1).clip_high == 0.1
    assert settings(policy_clip_ratio=0.1, policy_clip_high_ratio=0.28).clip_high == 0.28


def test_the_defaults_of_two_documents_are_not_the_same_object():
    first, second = (OnlineVariables(max_gen_len=8, num_unique_prompts_per_iter=4) for _ in range(2))
    assert first.rewards is not second.rewards
    assert first.engine.options is not second.engine.options
