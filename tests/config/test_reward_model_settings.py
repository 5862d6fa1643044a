"""Settings of reward models: defaults, bounds, and what a head cannot express."""

from __future__ import annotations

from typing import Any

import pytest

from compose_rl.config.reward_model import RewardModelSettings, is_pairwise
from compose_rl.config.schema import parse
from compose_rl.errors import UserError


def settings(**document: Any) -> RewardModelSettings:
    return parse(RewardModelSettings, document, "model")


def test_defaults_are_those_of_the_original():
    given = settings()
    assert (given.loss_type, given.head, given.n_labels) == ("bt", "value_head", 1)
    assert (given.p_dropout, given.bias, given.return_last, given.return_lm_logits) == (0.0, 0.0, True, False)
    assert (given.min_threshold, given.max_threshold) == (None, None)


@pytest.mark.parametrize(
    "document, message",
    [
        ({"loss_type": "bellman"}, "model: loss_type='bellman': Input should be 'bt', 'bt_eurus' or 'bce'"),
        ({"n_labels": 0}, "n_labels=0: Input should be greater than or equal to 1"),
        (
            {"n_labels": 2},
            "n_labels=2: loss_type='bt' compares one score per answer; set it to 1 or use 'bce'",
        ),
        ({"p_dropout": 1}, "p_dropout=1: Input should be less than 1"),
        ({"head": "linear", "bias": 1.5}, "bias=1.5: only head='value_head' has it, and head is 'linear'"),
        (
            {"head": "linear", "p_dropout": 0.1},
            "only head='value_head' has it, and head is 'linear'; leave it at 0.0",
        ),
        (
            {"head": "linear", "return_lm_logits": True},
            "return_lm_logits=True: only head='value_head' has it",
        ),
        ({"max_threshold": 1}, "max_threshold=1: min_threshold is None; set both thresholds or neither"),
        ({"min_threshold": -1}, "max_threshold=None: min_threshold is -1.0; set both thresholds or neither"),
        (
            {"min_threshold": 1, "max_threshold": 0},
            "max_threshold=0: not above min_threshold=1.0; set a larger one",
        ),
    ],
)
def test_bad_settings_are_named_with_their_remedy(document: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        settings(**document)
    assert message in str(error.value)


def test_settings_that_go_together_are_taken():
    assert settings(loss_type="bce", n_labels=3).n_labels == 3
    assert settings(head="linear", bias=0).bias == 0
    assert settings(min_threshold=-1, max_threshold=1).max_threshold == 1


def test_losses_say_what_data_they_take():
    assert [is_pairwise(settings(loss_type=name)) for name in ("bt", "bt_eurus", "bce")] == [
        True,
        True,
        False,
    ]
