"""The weight of KL: each rule by hand, and resumed from JSON."""

from __future__ import annotations

import json
import math

import pytest

torch = pytest.importorskip("torch")

from compose_rl.config.online_rl import KLControllerSettings  # noqa: E402
from compose_rl.core.kl_controllers import KL_CONTROLLERS, KLController  # noqa: E402

KLS = [0.3, 0.02, 0.15, 0.5, 0.01, 0.01]


def controller(kind: str, **settings: float) -> KLController:
    section = {"init_kl_coef": 0.2, "target": 0.1, "horizon": 1000, "kl_lr": 0.05} | settings
    return KL_CONTROLLERS[kind](KLControllerSettings.model_validate({"kl_ctl_type": kind} | section))


def test_fixed_stays():
    fixed = controller("fixed")
    fixed.update(5.0, 100)
    assert fixed.coef == 0.2


@pytest.mark.parametrize(
    "kl, factor",
    [(0.11, 1 + 0.1 * 0.05), (0.5, 1 + 0.2 * 0.05), (0.0, 1 - 0.2 * 0.05), (0.1, 1.0)],
    ids=["in proportion", "clipped above", "clipped below", "on target"],
)
def test_adaptive_moves_by_the_clipped_error(kl: float, factor: float):
    adaptive = controller("adaptive")
    adaptive.update(kl, 50)
    assert adaptive.coef == pytest.approx(0.2 * factor, rel=1e-12)


def test_pid_takes_the_steps_of_adam():
    pid = controller("pid")
    coef = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([coef], lr=0.05)
    for kl in KLS:
        pid.update(kl, 64)
        adam.zero_grad()
        (-coef * (kl - 0.1) * 64 / 1000).backward()
        adam.step()
        assert pid.coef == pytest.approx(coef.item(), rel=1e-9)


def test_ball_is_pid_that_ends_at_0():
    ball, pid = controller("ball", init_kl_coef=0.07), controller("pid", init_kl_coef=0.07)
    for controlled in ball, pid:
        for _ in range(3):
            controlled.update(0.0, 64)
    assert ball.coef == 0.0
    assert pid.coef == pytest.approx(0.07 - 3 * 0.05, abs=1e-6)


@pytest.mark.parametrize("kind", ["adaptive", "pid", "ball"])
def test_more_kl_than_wanted_raises_the_weight_and_less_lowers_it(kind: str):
    above, below = controller(kind), controller(kind)
    above.update(0.1 + 1e-3, 10)
    below.update(0.1 - 1e-3, 10)
    assert below.coef < 0.2 < above.coef


@pytest.mark.parametrize("kind", KL_CONTROLLERS)
def test_a_resumed_controller_goes_on_as_if_nothing_had_happened(kind: str):
    whole, first = controller(kind), controller(kind)
    for kl in KLS[:3]:
        whole.update(kl, 64)
        first.update(kl, 64)
    second = controller(kind, init_kl_coef=0.9)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for kl in KLS[3:]:
        whole.update(kl, 64)
        second.update(kl, 64)
        assert second.coef == whole.coef
    assert math.isfinite(whole.coef)
