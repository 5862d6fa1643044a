"""Settings of the offline losses: defaults, bounds, and settings that nothing would read."""

from __future__ import annotations

import math
from typing import Any

import pytest

from compose_rl.config.offline_rl import OfflineRLSettings, needs_rewards, takes_unpaired
from compose_rl.config.schema import parse
from compose_rl.errors import UserError


def settings(**document: Any) -> OfflineRLSettings:
    return parse(OfflineRLSettings, document, "model")


def test_defaults_are_those_of_the_original():
    given = settings()
    assert (given.loss_type, given.beta, given.label_smoothing, given.sft_alpha) == ("dpo", 0.1, 0.0, 0.0)
    assert (given.average_log_prob, given.temperature, given.compat) == (False, 1.0, False)


@pytest.mark.parametrize(
    "document, message",
    [
        ({"loss_type": "orpo"}, "model: loss_type='orpo': Input should be 'dpo', 'ipo', 'kto'"),
        ({"bta": 1}, "model: unknown key 'bta'; did you mean 'beta'?"),
        ({"beta": 0}, "model: beta=0: Input should be greater than 0"),
        ({"beta": math.inf}, "model: beta=inf: Input should be a finite number"),
        ({"label_smoothing": 0.5}, "label_smoothing=0.5: Input should be less than 0.5"),
        ({"sft_alpha": -1}, "sft_alpha=-1: Input should be greater than or equal to 0"),
        ({"temperature": 0}, "temperature=0: Input should be greater than 0"),
        (
            {"loss_type": "ipo", "label_smoothing": 0.1},
            "label_smoothing=0.1: only loss_type='dpo' reads it, and loss_type is 'ipo'; leave it at 0.0",
        ),
        ({"eta": 2}, "eta=2: only loss_type='rpo' reads it, and loss_type is 'dpo'; leave it at 1.0"),
        ({"desirable_weight": 2}, "desirable_weight=2: only loss_type='kto' reads it"),
        ({"loss_type": "rpo", "undesirable_weight": 2}, "only loss_type='kto' reads it"),
        (
            {"loss_type": "kto", "compat": True, "sft_alpha": 0.1},
            "sft_alpha=0.1: the original's kto fails with an SFT term, and compat is True; set compat",
        ),
        (
            {"loss_type": "kto", "compat": True, "desirable_weight": 2},
            "desirable_weight=2: the original's kto has no weights, and compat is True",
        ),
    ],
)
def test_bad_settings_are_named_with_their_remedy(document: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        settings(**document)
    assert message in str(error.value)


def test_settings_of_the_loss_itself_are_taken():
    assert settings(loss_type="dpo", label_smoothing=0.1).label_smoothing == 0.1
    assert settings(loss_type="rpo", eta=2).eta == 2
    assert settings(loss_type="kto", desirable_weight=0.5, undesirable_weight=2).undesirable_weight == 2


def test_what_a_loss_needs_of_the_data_is_known_without_it():
    rewarded = [
        name
        for name in ("dpo", "ipo", "kto", "rpo", "rcdpo", "rebel")
        if needs_rewards(settings(loss_type=name))
    ]
    assert rewarded == ["rpo", "rcdpo", "rebel"]
    assert takes_unpaired(settings(loss_type="kto"))
    assert not takes_unpaired(settings(loss_type="kto", compat=True))
    assert not takes_unpaired(settings(loss_type="dpo"))
