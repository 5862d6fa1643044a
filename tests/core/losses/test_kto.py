"""KTO: single completions, the KL term, and what the original does otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from offline_golden import CASES, a_row, loss_of, pairs_from, rows_strategy, settings_strategy  # noqa: E402

from compose_rl.config.offline_rl import OfflineRLSettings  # noqa: E402
from compose_rl.core.losses import (  # noqa: E402
    OFFLINE_LOSSES,
    UNPAIRED_LOSSES,
    UnpairedLogps,
    kto_kl,
    kto_kl_sums,
)
from compose_rl.errors import UserError  # noqa: E402

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


def test_kto_calls_a_completion_right_by_its_side_of_z():
    # Log-ratios 0.1 (desirable) and -1, z 0.25: the desirable one is above 0 but below z.
    batch = unpaired_from([a_row(policy_chosen=-9.9)])
    metrics = UNPAIRED_LOSSES["kto"](batch, OfflineRLSettings(loss_type="kto")).metrics
    assert metrics["accuracy"].item() == 0.5


def test_kto_kl_adds_over_ranks_is_clamped_and_carries_no_gradient():
    s = OfflineRLSettings(loss_type="kto")
    policy = torch.tensor([-3.0, -5.0, -2.0], requires_grad=True)
    ref, length = torch.tensor([-4.0, -4.5, -4.0]), torch.tensor([2, 5, 4])
    # Log-ratios 1, -0.5 and 2: mean 2.5 / 3; per token 0.5, -0.1 and 0.5: mean 0.9 / 3.
    sums = kto_kl_sums(policy[:1], ref[:1], length[:1], s) + kto_kl_sums(policy[1:], ref[1:], length[1:], s)
    assert kto_kl(sums).item() == pytest.approx(2.5 / 3)
    assert not sums.requires_grad and not kto_kl(sums).requires_grad
    per_token = OfflineRLSettings(loss_type="kto", average_log_prob=True)
    assert kto_kl(kto_kl_sums(policy, ref, length, per_token)).item() == pytest.approx(0.3)
    assert kto_kl(kto_kl_sums(ref, policy, length, s)).item() == 0


def test_kto_without_its_kl_is_refused():
    with pytest.raises(ValueError, match="kto_kl_sums"):
        OFFLINE_LOSSES["kto"](replace(pairs_from([a_row()]), kl=None), OfflineRLSettings(loss_type="kto"))


def test_original_kto_refuses_single_completions():
    with pytest.raises(UserError, match="compat=True: the original's kto takes pairs only"):
        UNPAIRED_LOSSES["kto"](unpaired_from([a_row()]), OfflineRLSettings(loss_type="kto", compat=True))


def test_original_kto_depends_on_the_microbatch_and_ours_does_not():
    rows = [a_row(), a_row(policy_chosen=-2.0, policy_rejected=-6.0)]
    for compat in (True, False):
        s = OfflineRLSettings(loss_type="kto", compat=compat)
        split = (loss_of(rows[:1], s).loss + loss_of(rows[1:], s).loss).item() / 2
        assert (split == pytest.approx(loss_of(rows, s).loss.item(), abs=1e-6)) is not compat
