"""What the log says of an iteration of online RL."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from compose_rl.training.online.figures import iteration_line

FIGURES = {
    "rollout/reward": 0.5,
    "rollout/rewards/right": 0.75,
    "rollout/length": 6.0,
    "rollout/truncated": 0.0,
}


def test_an_iteration_is_a_line_with_what_there_is() -> None:
    spent = {"generate": 1.25, "train": 2.0}
    assert iteration_line(3, FIGURES, spent) == (
        "iteration 3: reward 0.5000, length 6.0; seconds: generate 1.2, train 2.0"
    )
    more = {
        "rollout/rewards/short": -0.25,
        "rollout/kl": 0.01,
        "rollout/truncated": 0.125,
        "rollout/lost": 0.5,
    }
    assert iteration_line(3, FIGURES | more, {}) == (
        "iteration 3: reward 0.5000 (right 0.7500, short -0.2500), KL 0.0100, length 6.0,"
        " truncated 12%, lost 50%; seconds: "
    )


def test_of_an_iteration_that_began_before_a_resume_only_the_number_is_known() -> None:
    assert iteration_line(3, {}, {"train": 2.0}) == "iteration 3"
