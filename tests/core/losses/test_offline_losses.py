"""Offline losses against values worked out by hand and a slow scalar version written from the papers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from compose_rl.config.offline_rl import OfflineLossName, OfflineRLSettings  # noqa: E402
from compose_rl.core.losses import (  # noqa: E402
    OFFLINE_LOSSES,
    UNPAIRED_LOSSES,
    LossOutput,
    PairLogps,
    UnpairedLogps,
    kto_kl,
    kto_kl_sums,
)
from compose_rl.errors import UserError  # noqa: E402

NAMES = sorted(OFFLINE_LOSSES)
CASES = settings(max_examples=50, deadline=None, derandomize=True)
LOG2 = math.log(2)


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


def test_losses_have_the_values_worked_out_by_hand():
    check_by_hand(OFFLINE_LOSSES)
    assert {case.split()[0] for case in BY_HAND} == set(OFFLINE_LOSSES)


def test_table_and_settings_name_the_same_losses():
    assert set(get_args(OfflineLossName)) == set(OFFLINE_LOSSES)


@pytest.mark.parametrize("name", NAMES)
def test_losses_equal_the_slow_implementation(name: str):
    @CASES
    @given(rows_strategy, settings_strategy(name))
    def check(rows: list[dict[str, float]], s: OfflineRLSettings) -> None:
        expected = sum(slow_pair_loss(row, s) for row in rows) / len(rows)
        assert loss_of(rows, s).loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)

    check()


# --- Properties


def test_dpo_starts_at_log_2():
    same = a_row(policy_chosen=-10.0, policy_rejected=-11.0)
    for smoothing in (0.0, 0.2):
        assert loss_of([same], OfflineRLSettings(label_smoothing=smoothing)).loss.item() == pytest.approx(
            LOG2
        )


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_the_weighted_mean_of_its_microbatches(name: str):
    @CASES
    @given(rows_strategy, rows_strategy, settings_strategy(name))
    def check(first: list[dict[str, float]], second: list[dict[str, float]], s: OfflineRLSettings) -> None:
        whole, parts = loss_of(first + second, s), (loss_of(first, s), loss_of(second, s))
        share = len(first) / len(first + second)
        assert whole.loss.item() == pytest.approx(
            share * parts[0].loss.item() + (1 - share) * parts[1].loss.item(), rel=1e-9, abs=1e-9
        )
        for key, value in whole.metrics.items():
            mean = share * parts[0].metrics[key].item() + (1 - share) * parts[1].metrics[key].item()
            assert value.item() == pytest.approx(mean, rel=1e-4, abs=1e-4), key

    check()


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_pairs_does_not_matter(name: str):
    rows = [a_row(policy_chosen=-float(i), chosen_reward=i / 2) for i in range(1, 6)]
    s = OfflineRLSettings(loss_type=name, sft_alpha=0.1)  # type: ignore[arg-type]
    assert loss_of(rows[::-1], s).loss.item() == pytest.approx(loss_of(rows, s).loss.item(), rel=1e-12)


@CASES
@given(row_strategy, st.floats(0, 0.45))
def test_swapping_the_answers_of_dpo_swaps_the_label(row: dict[str, float], smoothing: float):
    swapped = row | {
        "policy_chosen": row["policy_rejected"],
        "policy_rejected": row["policy_chosen"],
        "ref_chosen": row["ref_rejected"],
        "ref_rejected": row["ref_chosen"],
    }
    s = OfflineRLSettings(label_smoothing=smoothing)
    one, other = loss_of([row], s).loss.item(), loss_of([swapped], s).loss.item()
    # -log sigma(x) + log sigma(-x) = -x, so exchanging the two moves the loss by (1 - 2 eps) beta h.
    h = row["policy_chosen"] - row["ref_chosen"] - row["policy_rejected"] + row["ref_rejected"]
    assert one - other == pytest.approx(-(1 - 2 * smoothing) * s.beta * h, abs=1e-9)


def gradients(rows: list[dict[str, float]], s: OfflineRLSettings) -> torch.Tensor:
    pairs = pairs_from(rows)
    chosen = pairs.policy_chosen.requires_grad_()
    rejected = pairs.policy_rejected.requires_grad_()
    OFFLINE_LOSSES[s.loss_type](pairs, s).loss.backward()
    return torch.stack([chosen.grad, rejected.grad])


@CASES
@given(rows_strategy)
def test_rpo_and_rcdpo_have_the_same_gradient(rows: list[dict[str, float]]):
    rpo, rcdpo = (gradients(rows, OfflineRLSettings(loss_type=name)) for name in ("rpo", "rcdpo"))
    torch.testing.assert_close(rpo, rcdpo, rtol=1e-10, atol=1e-12)


@CASES
@given(row_strategy)
def test_rpo_is_not_negative_and_0_where_the_margins_agree(row: dict[str, float]):
    s = OfflineRLSettings(loss_type="rpo")
    assert loss_of([row], s).loss.item() >= -1e-12
    h = row["policy_chosen"] - row["ref_chosen"] - row["policy_rejected"] + row["ref_rejected"]
    agreeing = row | {"chosen_reward": s.beta * h, "rejected_reward": 0.0}
    assert loss_of([agreeing], s).loss.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_with_finite_differences(name: str):
    s = OfflineRLSettings(loss_type=name, sft_alpha=0.2)  # type: ignore[arg-type]
    base = pairs_from([a_row(), a_row(policy_chosen=-3.0, policy_rejected=-9.5)])

    def loss(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return OFFLINE_LOSSES[name](replace(base, policy_chosen=chosen, policy_rejected=rejected), s).loss

    assert torch.autograd.gradcheck(
        loss, (base.policy_chosen.requires_grad_(), base.policy_rejected.requires_grad_())
    )


@pytest.mark.parametrize("name", NAMES)
def test_training_raises_the_chosen_answer_above_the_rejected(name: str):
    same = a_row(policy_chosen=-10.0, policy_rejected=-11.0)
    chosen, rejected = gradients([same], OfflineRLSettings(loss_type=name)).flatten()  # type: ignore[arg-type]
    assert chosen < 0 < rejected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chosen, rejected", [(0.0, -1e5), (-1e5, 0.0)])
def test_losses_and_gradients_stay_finite_at_extreme_margins(name: str, chosen: float, rejected: float):
    row = a_row(policy_chosen=chosen, policy_rejected=rejected)
    pairs = pairs_from([row], torch.float32)
    pairs.policy_chosen.requires_grad_()
    output = OFFLINE_LOSSES[name](pairs, OfflineRLSettings(loss_type=name))  # type: ignore[arg-type]
    output.loss.backward()
    assert output.loss.isfinite() and pairs.policy_chosen.grad.isfinite().all()


# --- What is logged


def test_metrics_are_named_as_in_the_original_and_carry_no_gradient():
    pairs = pairs_from([a_row()])
    pairs.policy_chosen.requires_grad_()
    s = OfflineRLSettings(loss_type="rebel", beta=0.5, sft_alpha=0.3)
    metrics = OFFLINE_LOSSES["rebel"](pairs, s).metrics
    expected = {
        "chosen_rewards": 1.5,
        "rejected_rewards": -0.5,
        "margin": 2.0,
        "chosen_KL": 3.0,
        "rejected_KL": -1.0,
        "margin_KL": 4.0,
        "accuracy": 1.0,
        "reward_diff": 1.0,
        "rebel_loss": 1.0,
        "sft_regularization_loss": 0.7,
    }
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(expected, abs=1e-6)
    assert not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("name", ["rpo", "rcdpo", "rebel"])
def test_data_without_rewards_is_refused(name: str):
    pairs = replace(pairs_from([a_row()]), chosen_reward=None)
    with pytest.raises(UserError, match=f"loss_type='{name}' needs the columns 'chosen_reward'"):
        OFFLINE_LOSSES[name](pairs, OfflineRLSettings(loss_type=name))  # type: ignore[arg-type]


# --- KTO


def unpaired_from(rows: list[dict[str, float]]) -> UnpairedLogps:
    sides = [(row, side) for side in ("chosen", "rejected") for row in rows]

    def column(name: str) -> torch.Tensor:
        return torch.tensor([row[name.format(side)] for row, side in sides], dtype=torch.float64)

    return UnpairedLogps(
        policy=column("policy_{}"),
        ref=column("ref_{}"),
        desirable=torch.tensor([side == "chosen" for _, side in sides]),
        length=column("{}_length"),
        kl=torch.tensor(rows[0]["kl"], dtype=torch.float64),
    )


@CASES
@given(rows_strategy, settings_strategy("kto"))
def test_kto_on_pairs_is_kto_on_their_completions(rows: list[dict[str, float]], s: OfflineRLSettings):
    s = s.model_copy(update={"sft_alpha": 0.0})
    pairs, unpaired = loss_of(rows, s).loss, UNPAIRED_LOSSES["kto"](unpaired_from(rows), s).loss
    assert unpaired.item() == pytest.approx(pairs.item(), rel=1e-9, abs=1e-12)


def test_kto_sft_term_is_for_desirable_completions_only():
    # One desirable answer of log-prob -7 and 3 tokens among two completions: 0.3 * (7/3) / 2.
    plain, with_sft = (OfflineRLSettings(loss_type="kto", sft_alpha=alpha) for alpha in (0.0, 0.3))
    batch = unpaired_from([a_row()])
    without, output = UNPAIRED_LOSSES["kto"](batch, plain), UNPAIRED_LOSSES["kto"](batch, with_sft)
    assert (output.loss - without.loss).item() == pytest.approx(0.35)
    assert output.metrics["sft_regularization_loss"].item() == pytest.approx(0.35)


def test_kto_logs_unpaired_completions():
    # Log-ratios 3 (desirable) and -1 (undesirable), z 0.25, both on their right side of it.
    metrics = UNPAIRED_LOSSES["kto"](
        unpaired_from([a_row()]), OfflineRLSettings(loss_type="kto", beta=0.5)
    ).metrics
    expected = {
        "signed_rewards": 1.0,
        "accuracy": 1.0,
        "completion_KL": 1.0,
        "desirable": 0.5,
        "kto_kl": 0.25,
    }
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(expected)


def test_kto_kl_adds_over_ranks_is_clamped_and_carries_no_gradient():
    s = OfflineRLSettings(loss_type="kto")
    policy = torch.tensor([-3.0, -5.0, -2.0], requires_grad=True)
    ref, length = torch.tensor([-4.0, -4.5, -4.0]), torch.tensor([2, 5, 4])
    # Log-ratios 1, -0.5 and 2: mean 2.5 / 3; per token 0.5, -0.1 and 0.5: mean 0.9 / 3.
    sums = kto_kl_sums(policy[:1], ref[:1], length[:1], s) + kto_kl_sums(policy[1:], ref[1:], length[1:], s)
    assert kto_kl(sums).item() == pytest.approx(2.5 / 3)
    assert not kto_kl(sums).requires_grad
    per_token = OfflineRLSettings(loss_type="kto", average_log_prob=True)
    assert kto_kl(kto_kl_sums(policy, ref, length, per_token)).item() == pytest.approx(0.3)
    assert kto_kl(kto_kl_sums(ref, policy, length, s)).item() == 0


def test_kto_without_its_kl_is_refused():
    with pytest.raises(ValueError, match="kto_kl_sums"):
        OFFLINE_LOSSES["kto"](replace(pairs_from([a_row()]), kl=None), OfflineRLSettings(loss_type="kto"))


def test_original_kto_depends_on_the_microbatch_and_ours_does_not():
    rows = [a_row(), a_row(policy_chosen=-2.0, policy_rejected=-6.0)]
    for compat in (True, False):
        s = OfflineRLSettings(loss_type="kto", compat=compat)
        split = (loss_of(rows[:1], s).loss + loss_of(rows[1:], s).loss).item() / 2
        assert (split == pytest.approx(loss_of(rows, s).loss.item(), abs=1e-6)) is not compat


# --- Mutations: the golden values must notice


def rewritten(name: str, old: str, new: str) -> Any:
    """The loss, its source changed in one place."""
    import inspect
    import sys

    module = sys.modules[OFFLINE_LOSSES[name].__module__]
    source = inspect.getsource(module)
    assert source.count(old) >= 1, f"{old!r} is not in {module.__name__}"
    namespace: dict[str, Any] = {"__name__": module.__name__}
    exec(compile(source.replace(old, new), module.__file__ or name, "exec"), namespace)
    return namespace[name]


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
def test_golden_values_notice_a_mutation(name: str, old: str, new: str):
    with pytest.raises(AssertionError, match=name):
        check_by_hand({name: rewritten(name, old, new)})


def test_the_mutation_harness_leaves_an_unchanged_loss_green():
    for name in NAMES:
        check_by_hand({name: rewritten(name, f"def {name}(", f"def {name}(")})


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
