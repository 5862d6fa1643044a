"""Functions in processes of their own: limits, deaths, and that nothing heavy is loaded there."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from answered import answered

from compose_rl.errors import UserError
from compose_rl.rewards.manager import RewardManager
from compose_rl.rewards.types import Rewarded

Make = Callable[..., RewardManager]


def function(name: str) -> dict[str, str]:
    return {"reward_type": f"user_functions.{name}"}


def lost(rewarded: Rewarded) -> list[bool]:
    return rewarded.lost.tolist()


def test_a_function_gets_prompt_answer_and_known_answer(make: Make) -> None:
    rewarded = make({"m": function("matches"), "w": function("words")}).score(
        [answered("a b", "a b"), answered("c", "d")]
    )
    assert rewarded.components["m"].tolist() == [1, 0]
    assert rewarded.components["w"].tolist() == [2, 1]


def test_a_function_that_hangs_is_ended_and_costs_one_sample(make: Make) -> None:
    rewarded = make({"h": function("hangs")}, reward_timeout=0.5).score(
        [answered("ok"), answered("hang"), answered("ok")]
    )
    assert lost(rewarded) == [False, True, False]
    assert rewarded.totals.tolist() == [1, 0, 1]
    assert "reward_timeout=0.5 s" in rewarded.failures["h"].first


def test_mathematics_that_never_ends_is_ended(make: Make) -> None:
    rewarded = make({"m": {"reward_type": "math_verifier"}}, reward_timeout=5).score(
        [answered(r"\boxed{2^{10^{10}}}", "5"), answered(r"\boxed{\frac{10}{2}}", "5")]
    )
    assert lost(rewarded) == [True, False]
    assert rewarded.totals.tolist() == [0, 1]


def test_a_process_that_dies_is_started_again(make: Make) -> None:
    rewarded = make({"d": function("dies")}).score([answered("die"), answered("ok")])
    assert lost(rewarded) == [True, False]
    assert "died with code 3" in rewarded.failures["d"].first


def test_a_process_is_started_once(make: Make) -> None:
    managed = make({"p": function("process")})
    processes = [managed.score([answered()] * 3).components["p"].tolist() for _ in range(2)]
    assert len({number for numbers in processes for number in numbers}) == 1


def test_a_process_loads_nothing_heavy(make: Make) -> None:
    assert make({"h": function("heavy_modules")}).score([answered()]).totals.tolist() == [0]


@pytest.mark.parametrize("answer, reason", [("nan", "nan"), ("inf", "inf"), ("words", "ValueError")])
def test_a_function_that_raises_or_gives_no_number_costs_one_sample(
    answer: str, reason: str, make: Make
) -> None:
    rewarded = make({"g": function("given")}).score([answered("2"), answered(answer), answered(answer)])
    assert lost(rewarded) == [False, True, True]
    assert math.isnan(rewarded.components["g"][1])
    failure = rewarded.failures["g"]
    assert failure.count == 2 and reason in failure.first and "'Question?'" in failure.first
    assert rewarded.means() == {"g": 2.0}


def test_a_reward_that_cannot_be_made_is_refused_at_the_start(make: Make) -> None:
    from compose_rl.config.reward_types import Registered
    from compose_rl.rewards.pool import RewardPool
    from compose_rl.rewards.worker import Recipe

    broken = Recipe("user_functions", "NotThere", Registered(reward_type="x"))
    with pytest.raises(UserError, match=r"variables\.rewards\.b cannot be made: AttributeError.*NotThere"):
        RewardPool({"b": broken}, 1.0, 1)
