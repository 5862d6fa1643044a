"""Servers that are down, slow, overloaded or wrong, and judges that talk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from answered import answered
from toy_server import Answer, serving

from compose_rl.errors import TransientError, UserError
from compose_rl.rewards import endpoint
from compose_rl.rewards.building import RewardContext
from compose_rl.rewards.manager import RewardManager

Make = Callable[..., RewardManager]
DOWN = "http://127.0.0.1:9"
"""Nothing listens there."""


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_FIRST_WAIT", 0.01)


def model(url: str, **keys: Any) -> dict[str, Any]:
    return {"rm": {"reward_type": "inference_reward_model", "url": f"{url}/v1/rewards"} | keys}


def judge(url: str, **keys: Any) -> dict[str, Any]:
    own = {"reward_type": "llm_judge", "base_url": f"{url}/v1", "model": "m", "template": "Rate: {answer}"}
    return {"j": own | keys}


def lengths(number: int, document: Any) -> tuple[int, Any]:
    return 200, {"scores": [len(s["answer_tokens"]) for s in document["sequences"]]}


def test_answers_are_sent_in_parts_and_scores_come_back_in_order(make: Make) -> None:
    with serving(lengths) as toy:
        rewarded = make(model(toy.url, batch_size=2)).score([answered(tokens=n) for n in (1, 2, 3, 4, 5)])
    assert rewarded.totals.tolist() == [1, 2, 3, 4, 5]
    assert sorted(len(document["sequences"]) for _, _, document in toy.asked) == [1, 2, 2]
    assert {path for path, _, _ in toy.asked} == {"/v1/rewards"}
    assert toy.asked[0][2]["sequences"][0]["prompt_tokens"] == [7, 8]


def test_an_overloaded_server_is_asked_again(make: Make) -> None:
    def answer(number: int, document: Any) -> tuple[int, Any]:
        return [(503, "busy"), (429, "slow down"), lengths(number, document)][number - 1]

    with serving(answer) as toy:
        rewarded = make(model(toy.url)).score([answered(tokens=4)])
    assert rewarded.totals.tolist() == [4] and len(toy.asked) == 3


def test_a_server_that_is_down_may_come_back_another_time(make: Make) -> None:
    with pytest.raises(TransientError, match=r"failed for 3 of 3.*no answer in 3 tries.*[Rr]efused"):
        make(model(DOWN, max_retries=2), max_lost_fraction=0.5).score([answered()] * 3)


def test_one_of_this_projects_servers_must_be_there_at_the_start(make: Make) -> None:
    keys = {"reward_type": "inference_reward_model", "url": DOWN, "max_retries": 1}
    with pytest.raises(TransientError, match=r"/health: no answer in 2 tries"):
        make({"rm": keys})


def test_a_slow_server_costs_the_answers_of_its_request(make: Make) -> None:
    free = threading.Event()

    def answer(number: int, document: Any) -> tuple[int, Any]:
        if document["sequences"][0]["answer_tokens"] == [2, 3]:
            free.wait(10)
        return lengths(number, document)

    with serving(answer) as toy:
        rewards = model(toy.url, timeout=0.3, max_retries=1, batch_size=1)
        rewarded = make(rewards).score([answered(tokens=2), answered(tokens=3)])
        free.set()
    assert rewarded.lost.tolist() == [True, False]
    assert "2 tries of 0.3 s (timed out)" in rewarded.failures["rm"].first


@pytest.mark.parametrize(
    "reply, reason",
    [
        ((200, {"scores": [1.0]}), "gave 1 scores for 2 answers"),
        ((200, {"score": [1.0, 2.0]}), "gave no list 'scores' for 2 answers"),
        ((200, [1.0, 2.0]), "gave no list 'scores' for 2 answers"),
        ((200, "<html>"), "its reply is not JSON"),
        ((200, {"scores": [None, 1.0], "errors": {"0": "too long"}}), "too long"),
        ((200, '{"scores": [NaN, 1.0]}'), "gave nan"),
        ((400, "bad tokens"), "HTTP 400: bad tokens"),
        ((302, ""), "HTTP 302"),
    ],
)
def test_a_wrong_reply_costs_the_answers_and_is_not_asked_for_again(
    reply: tuple[int, Any], reason: str, make: Make
) -> None:
    with serving(lambda number, document: reply) as toy:
        rewarded = make(model(toy.url)).score([answered(), answered()])
    assert rewarded.lost[0] and reason in rewarded.failures["rm"].first
    assert len(toy.asked) == 1


@pytest.mark.parametrize(
    "scores, reason",
    [
        ([[1.0, 2.0, 3.0], [1.0]], "gave 3 scores for an answer of 2 sentences"),
        ([1.0, [1.0]], "gave 1.0, no list, for an answer of 2 sentences"),
        ([["good", 1.0], [1.0]], "good"),
    ],
)
def test_scores_that_are_not_one_for_each_sentence_lose_the_answer(
    scores: list[Any], reason: str, make: Make
) -> None:
    samples = [answered("t2. t3.", tokens=2), answered("t2.", tokens=1)]
    with serving(lambda number, document: (200, {"scores": scores})) as toy:
        context = RewardContext(WordTokenizer())
        rewarded = make(model(toy.url, granularity="sentence"), context).score(samples)
    assert rewarded.lost.tolist() == [True, False]
    assert reason in rewarded.failures["rm"].first
    assert [sequence["points"] for sequence in toy.asked[0][2]["sequences"]] == [[0, 1], [0]]


class WordTokenizer:
    """Every token is a word with a full stop."""

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool) -> str:
        return " ".join(f"t{token}." for token in tokens)


def test_a_wrong_server_ends_the_run_as_bad_input(make: Make) -> None:
    with (
        serving(lambda number, document: (200, {"scores": []})) as toy,
        pytest.raises(UserError, match="gave 0 scores for 2 answers"),
    ):
        make(model(toy.url), max_lost_fraction=0.1).score([answered(), answered()])


def test_the_credential_comes_from_the_environment_and_shows_nowhere(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewards = {"j": judge("")["j"] | {"base_url": DOWN, "api_key_env": "JUDGE_KEY", "max_retries": 0}}
    with pytest.raises(UserError, match="api_key_env=JUDGE_KEY: this variable is not set"):
        make(rewards)
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    assert "sk-very-secret" not in make(rewards).score([answered()]).failures["j"].first
    with serving(lambda number, document: (401, "no")) as toy:
        failures = make(judge(toy.url, api_key_env="JUDGE_KEY")).score([answered()]).failures
    assert toy.asked[0][1]["Authorization"] == "Bearer sk-very-secret"
    assert "HTTP 401" in failures["j"].first and "sk-very-secret" not in failures["j"].first


def says(text: str) -> Answer:
    return lambda number, document: (200, {"choices": [{"message": {"content": text}}]})


@pytest.mark.parametrize(
    "reply, keys, score",
    [
        ('{"score": 7}', {}, 7.0),
        ('Thinking {x}... {"score": 1} no: ```json\n{"why": "good", "score": 8.5}\n```', {}, 8.5),
        ('{"grade": "4"}', {"score_key": "grade", "scale": 10}, 0.4),
        ("Rating: [[3]] then Rating: [[6]]", {"score_regex": r"\[\[(\d+)\]\]", "scale": 2}, 3.0),
    ],
)
def test_a_judges_last_score_counts(reply: str, keys: dict[str, Any], score: float, make: Make) -> None:
    with serving(says(reply)) as toy:
        assert make(judge(toy.url, **keys)).score([answered("x")]).totals.tolist() == pytest.approx([score])


@pytest.mark.parametrize("reply", ["", "good!", '{"score": "high"}', '{"score": null}', '{"points": 3}'])
def test_a_judge_without_a_score_loses_the_answer(reply: str, make: Make) -> None:
    with serving(says(reply)) as toy:
        failures = make(judge(toy.url)).score([answered("x")]).failures
    assert "no score in the judge's reply" in failures["j"].first


def test_a_judge_is_asked_as_openais_protocol_says(make: Make) -> None:
    template = "Q: {prompt} A: {answer} R: {reference}"
    with serving(says('{"score": 1}')) as toy:
        make(judge(toy.url, template=template, system="Be fair.")).score([answered("{reference}", "five")])
    path, _, document = toy.asked[0]
    assert path == "/v1/chat/completions"
    assert document == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be fair."},
            {"role": "user", "content": "Q: Question? A: {reference} R: five"},
        ],
        "temperature": 0.0,
        "max_tokens": 512,
    }
