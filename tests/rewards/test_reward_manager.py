"""How points come together: coefficients, clips, centring, replacing, places, losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
import torch
from answered import answered

from compose_rl.errors import TransientError, UserError
from compose_rl.rewards import manager as manager_module
from compose_rl.rewards.manager import RewardManager
from compose_rl.rewards.types import Failed, RewardedSample, Score

Make = Callable[..., RewardManager]
GIVEN: dict[str, Any] = {"reward_type": "user_functions.given"}


class Fixed:
    """Gives what the test says, in this process."""

    batched: ClassVar[bool] = True
    scores: ClassVar[Any] = None

    def __init__(self, settings: object, context: object) -> None:
        pass

    def __call__(self, samples: Sequence[RewardedSample]) -> Sequence[Score]:
        if isinstance(self.scores, Exception):
            raise self.scores
        return self.scores


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch, make: Make) -> Callable[..., RewardManager]:
    """A manager of one batched reward ``f`` that gives ``scores``."""

    def build(scores: Any, keys: dict[str, Any] | None = None, **variables: Any) -> RewardManager:
        monkeypatch.setattr(manager_module, "reward_class", lambda settings: Fixed)
        monkeypatch.setattr(Fixed, "scores", scores)
        return make({"f": {"reward_type": "increasing_numbers"} | (keys or {})}, **variables)

    return build


def test_scores_stand_at_the_last_tokens_times_their_coefficients(make: Make) -> None:
    rewards = {"a": GIVEN | {"coefficient": 2}, "long": {"reward_type": "output_length", "max_gen_len": 4}}
    rewarded = make(rewards).score([answered("3", tokens=2), answered("-1", tokens=4)])
    assert rewarded.token_rewards.tolist() == [0, 6.5, 0, 0, 0, -1]
    assert rewarded.totals.tolist() == [6.5, -1]
    assert {name: points.tolist() for name, points in rewarded.components.items()} == {
        "a": [3, -1],
        "long": [0.5, 1],
    }
    assert rewarded.means() == {"a": 1, "long": 0.75}
    assert rewarded.token_rewards.dtype == rewarded.totals.dtype == torch.float32


def test_a_rewards_clip_comes_before_its_coefficient_and_the_sums_clip_last(make: Make) -> None:
    rewarded = make(
        {"a": GIVEN | {"coefficient": 10, "clip": 2}}, center_reward_mean=1, reward_clip=15
    ).score([answered("3"), answered("-9"), answered("0.5")])
    assert rewarded.components["a"].tolist() == [2, -2, 0.5]
    assert rewarded.totals.tolist() == [15, -15, 4]


def test_points_stand_at_the_tokens_that_a_reward_names(fixed: Callable[..., RewardManager]) -> None:
    scores = [[(0, 1.0), (2, 0.5)], [(1, -1.0), (1, -1.0)]]
    rewarded = fixed(scores, {"coefficient": 2}, center_reward_mean=1).score([answered(), answered()])
    assert rewarded.token_rewards.tolist() == [2, 0, 0, 0, -4, -1]
    assert rewarded.totals.tolist() == [2, -5]
    assert rewarded.components["f"].tolist() == [1.5, -2]


def test_a_bad_end_takes_the_place_of_all_other_points(make: Make) -> None:
    rewards = {"a": GIVEN, "end": {"reward_type": "bad_generation_end", "reward": -1, "coefficient": 3}}
    rewarded = make(rewards).score([answered("5"), answered("5", finished=False)])
    assert rewarded.totals.tolist() == [5, -3]
    assert rewarded.components["a"].tolist() == [5, 5]


def test_a_lost_answer_has_no_points_and_is_not_hidden_by_a_bad_end(make: Make) -> None:
    rewards = {"a": GIVEN, "end": {"reward_type": "bad_generation_end", "reward": -1}}
    rewarded = make(rewards).score([answered("nan", finished=False), answered("1")])
    assert rewarded.lost.tolist() == [True, False]
    assert rewarded.token_rewards.tolist() == [0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    "scores, reason",
    [
        ([1.0], "gave 1 scores for 2 answers"),
        ([1.0, "high"], "gave 'high', which is no number"),
        ([1.0, None], "gave None, which is no number"),
        ([1.0, [(3, 1.0)]], "gave points at token 3 of an answer of 3"),
        ([1.0, [(-1, 1.0)]], "gave points at token -1"),
        ([1.0, [(0, float("nan"))]], "gave nan"),
        (RuntimeError("out of order"), "RuntimeError: out of order"),
    ],
)
def test_what_is_no_score_loses_the_answer(
    scores: Any, reason: str, fixed: Callable[..., RewardManager]
) -> None:
    rewarded = fixed(scores).score([answered(), answered()])
    assert rewarded.lost[1] and reason in rewarded.failures["f"].first


def test_too_many_losses_end_the_run_and_show_the_first_sample(make: Make) -> None:
    managed = make({"a": GIVEN}, max_lost_fraction=0.5)
    samples = [answered("1"), answered("no"), answered("nan " + "x" * 1000)]
    assert managed.score(samples[:2]).lost.tolist() == [False, True]
    with pytest.raises(UserError) as caught:
        managed.score(samples)
    message = str(caught.value)
    assert "variables.rewards.a: failed for 2 of 3 answers" in message
    assert "max_lost_fraction=0.5" in message and "answer 'no'" in message
    assert "\n" not in message and len(message) < 800


def test_losses_to_the_outside_world_may_pass(fixed: Callable[..., RewardManager]) -> None:
    down = Failed("connection refused", transient=True)
    with pytest.raises(TransientError, match=r"failed for 2 of 3 answers.*connection refused"):
        fixed([down, down, 1.0], max_lost_fraction=0.1).score([answered()] * 3)


def test_other_ends_than_the_end_token_are_found_by_their_id(make: Make, tiny_model: Any) -> None:
    from compose_rl.data.encoding import load_tokenizer
    from compose_rl.rewards.building import RewardContext

    context = RewardContext(load_tokenizer(tiny_model))
    keys = {"reward_type": "bad_generation_end", "reward": -1, "extra_special_tokens": ["t4"]}
    samples = [answered(tokens=3, finished=False), answered(tokens=4, finished=False), answered(tokens=4)]
    assert make({"e": keys}, context).score(samples).totals.tolist() == [0, -1, 0]
    assert make({"e": keys | {"eos_penalty": False}}, context).score(samples).totals.tolist() == [0, -1, -1]
    with pytest.raises(UserError, match="'t4 t5' is 2 tokens"):
        make({"e": keys | {"extra_special_tokens": ["t4 t5"]}}, context)
