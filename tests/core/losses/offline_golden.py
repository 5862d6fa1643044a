"""What the offline losses are held against: values by hand, and a slow version written from the papers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st

from compose_rl.config.offline_rl import OfflineRLSettings
from compose_rl.core.losses import OFFLINE_LOSSES, LossOutput, PairLogps

NAMES = sorted(OFFLINE_LOSSES)
CASES = settings(max_examples=50, deadline=None, derandomize=True)


# --- A second implementation: one pair at a time, plain floats, each formula as its paper prints it.


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def bernoulli_kl(a: float, b: float) -> float:
    """From the probability sigma(a) to sigma(b); 1 - sigma(x) is sigma(-x), which keeps its digits."""
    return sigma(a) * math.log(sigma(a) / sigma(b)) + sigma(-a) * math.log(sigma(-a) / sigma(-b))


def slow_pair_loss(row: dict[str, float], s: OfflineRLSettings) -> float:
    chosen_ratio = row["policy_chosen"] - row["ref_chosen"]
    rejected_ratio = row["policy_rejected"] - row["ref_rejected"]
    if s.average_log_prob:
        chosen_ratio /= row["chosen_length"]
        rejected_ratio /= row["rejected_length"]
    h = chosen_ratio - rejected_ratio
    dr = row["chosen_reward"] - row["rejected_reward"]
    p, not_p = sigma(s.beta * h), sigma(-s.beta * h)
    if s.loss_type == "dpo":
        loss = -(1 - s.label_smoothing) * math.log(p) - s.label_smoothing * math.log(not_p)
    elif s.loss_type == "ipo":
        loss = (h - 0.5 / s.beta) ** 2
    elif s.loss_type == "rpo":
        loss = bernoulli_kl(s.eta * dr, s.beta * h)
    elif s.loss_type == "rcdpo":
        loss = -sigma(dr) * math.log(p) - (1 - sigma(dr)) * math.log(not_p)
    elif s.loss_type == "rebel":
        loss = (s.beta * h - dr) ** 2
    else:
        good = s.desirable_weight * (1 - sigma(s.beta * (chosen_ratio - row["kl"])))
        bad = s.undesirable_weight * (1 - sigma(s.beta * (row["kl"] - rejected_ratio)))
        loss = (good + bad) / 2
    return loss - s.sft_alpha * row["policy_chosen"] / row["chosen_length"]


# --- Helpers


FIELDS = [
    "policy_chosen",
    "policy_rejected",
    "ref_chosen",
    "ref_rejected",
    "chosen_length",
    "rejected_length",
    "prompt_length",
    "chosen_reward",
    "rejected_reward",
]


def pairs_from(rows: list[dict[str, float]], dtype: torch.dtype = torch.float64) -> PairLogps:
    columns = {name: torch.tensor([row[name] for row in rows], dtype=dtype) for name in FIELDS}
    return PairLogps(**columns, kl=torch.tensor(rows[0]["kl"], dtype=dtype))


def a_row(**changes: float) -> dict[str, float]:
    row = {
        "policy_chosen": -7.0,
        "policy_rejected": -12.0,
        "ref_chosen": -10.0,
        "ref_rejected": -11.0,
        "chosen_length": 3.0,
        "rejected_length": 4.0,
        "prompt_length": 2.0,
        "chosen_reward": 1.5,
        "rejected_reward": 0.5,
        "kl": 0.25,
    }
    return row | changes


log_prob = st.floats(-30, -0.1)
row_strategy = st.fixed_dictionaries(
    {
        **dict.fromkeys(FIELDS[:4], log_prob),
        **dict.fromkeys(FIELDS[4:7], st.integers(1, 40).map(float)),
        **dict.fromkeys(FIELDS[7:], st.floats(-3, 3)),
        "kl": st.just(0.7),
    }
)
rows_strategy = st.lists(row_strategy, min_size=1, max_size=6)


@st.composite
def settings_strategy(draw: Any, name: str) -> OfflineRLSettings:
    own = {
        "dpo": {"label_smoothing": draw(st.floats(0, 0.45))},
        "rpo": {"eta": draw(st.floats(0.1, 3))},
        "kto": {"desirable_weight": draw(st.floats(0, 3)), "undesirable_weight": draw(st.floats(0, 3))},
    }
    return OfflineRLSettings(
        loss_type=name,  # type: ignore[arg-type]
        beta=draw(st.floats(0.01, 1)),
        sft_alpha=draw(st.sampled_from([0.0, 0.3])),
        average_log_prob=draw(st.booleans()),
        **own.get(name, {}),
    )


def loss_of(rows: list[dict[str, float]], s: OfflineRLSettings) -> LossOutput:
    return OFFLINE_LOSSES[s.loss_type](pairs_from(rows), s)


# --- Values by hand
# a_row: chosen log-ratio -7 + 10 = 3, rejected -12 + 11 = -1, h = 4; with beta 0.5: beta h = 2; dr = 1.
# log(1 + e^-2) = 0.1269280110, log(1 + e^2) = 2.1269280110, sigma(1) = 0.7310585786.

BY_HAND = {
    # log(1 + e^-2)
    "dpo": ({}, 0.1269280110),
    # 0.9 * 0.1269280110 + 0.1 * 2.1269280110
    "dpo smoothed": ({"label_smoothing": 0.1}, 0.3269280110),
    # lengths 3 and 4: h = 3/3 + 1/4 = 1.25, beta h = 0.625, log(1 + e^-0.625)
    "dpo per token": ({"average_log_prob": True}, 0.4287006783),
    # 0.1269280110 + 0.3 * 7/3 (three answer tokens; not five with the prompt)
    "dpo with sft": ({"sft_alpha": 0.3}, 0.8269280110),
    # (4 - 1)^2
    "ipo": ({}, 9.0),
    # (1.25 - 1)^2
    "ipo per token": ({"average_log_prob": True}, 0.0625),
    # 0.7310585786 * 0.1269280110 + 0.2689414214 * 2.1269280110
    "rcdpo": ({}, 0.6648108538),
    # rcdpo minus the entropy of sigma(1), 0.5822031089
    "rpo": ({}, 0.0826077449),
    # eta 2: eta dr = beta h = 2, no distance
    "rpo at its goal": ({"eta": 2.0}, 0.0),
    # (2 - 1)^2
    "rebel": ({}, 1.0),
    # z = 0.25: sigma(-0.5 * 2.75) = 0.2018132223 and sigma(-0.5 * 1.25) = 0.3486451353, their mean
    "kto": ({}, 0.2752291788),
    # 2 * 0.2018132223 and 1 * 0.3486451353
    "kto weighted": ({"desirable_weight": 2.0}, 0.3761357899),
    # compat: z of the chosen side max(0, -1) = 0, of the rejected side max(0, 3) = 3:
    # sigma(-0.5 * 3) = 0.1824255238, sigma(-0.5 * (3 + 1)) = 0.1192029220, their mean
    "kto compat": ({"compat": True}, 0.1508142229),
    # compat: five tokens, prompt and answer
    "dpo with sft compat": ({"compat": True, "sft_alpha": 0.3}, 0.5469280110),
    # compat and per token: mean log-prob -7/3, over five tokens again; 0.4287006783 + 0.3 * 7/15
    "dpo per token with sft compat": (
        {"compat": True, "sft_alpha": 0.3, "average_log_prob": True},
        0.5687006783,
    ),
}


def check_by_hand(losses: Any) -> None:
    """Raises AssertionError if a loss of the table gives another value than the one worked out by hand."""
    for case, (changes, expected) in BY_HAND.items():
        name = case.split()[0]
        if name in losses:
            s = OfflineRLSettings(loss_type=name, beta=0.5, **changes)  # type: ignore[arg-type]
            got = losses[name](pairs_from([a_row()]), s).loss.item()
            assert got == pytest.approx(expected, abs=1e-9), case
