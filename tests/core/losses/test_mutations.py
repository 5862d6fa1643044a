"""The values worked out by hand notice a flipped sign, a lost factor, a wrong wire."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from offline_golden import NAMES, check_by_hand  # noqa: E402

from compose_rl.core.losses import OFFLINE_LOSSES  # noqa: E402

# --- Mutations: the golden values must notice


MUTATIONS = [
    ("dpo", "-(1 - flipped)", "(1 - flipped)"),
    ("dpo", "flipped * logsigmoid(-logits)", "flipped * logsigmoid(logits)"),
    ("dpo", "settings.beta * preference_gap", "preference_gap"),
    ("ipo", "- 1 / (2", "+ 1 / (2"),
    ("ipo", "1 / (2 * settings.beta)", "1 / settings.beta"),
    ("rpo", "logsigmoid(-target) - logsigmoid(-logits)", "logsigmoid(-target) - logsigmoid(logits)"),
    ("rpo", "target = settings.eta * reward_diff", "target = reward_diff"),
    ("rcdpo", "(-reward_diff).sigmoid()", "reward_diff.sigmoid()"),
    ("rebel", "settings) - reward_diff", "settings) + reward_diff"),
    ("kto", "(ratio - kl))", "(ratio + kl))"),
    ("kto", "(kl - ratio))", "(ratio - kl))"),
    ("kto", "settings.desirable_weight *", ""),
    ("kto", "batch, settings, {", "batch, settings.model_copy(update={'sft_alpha': 1.0}), {"),
]


@pytest.mark.parametrize("name, old, new", MUTATIONS)
def test_golden_values_notice_a_mutation(name: str, old: str, new: str, rewritten: Any):
    with pytest.raises(AssertionError, match=name):
        check_by_hand({name: rewritten(OFFLINE_LOSSES[name], old, new)})


def test_the_mutation_harness_leaves_an_unchanged_loss_green(rewritten: Any):
    for name in NAMES:
        check_by_hand({name: rewritten(OFFLINE_LOSSES[name], name, name)})


@pytest.mark.parametrize(
    "mutate",
    [
        lambda pairs: replace(
            pairs, policy_chosen=pairs.policy_rejected, policy_rejected=pairs.policy_chosen
        ),
        lambda pairs: replace(pairs, ref_chosen=torch.zeros_like(pairs.ref_chosen)),
    ],
    ids=["answers exchanged", "reference lost"],
)
@pytest.mark.parametrize("name", NAMES)
def test_golden_values_notice_wrong_wiring(name: str, mutate: Any):
    with pytest.raises(AssertionError, match=name):
        check_by_hand({name: lambda pairs, s: OFFLINE_LOSSES[name](mutate(pairs), s)})
