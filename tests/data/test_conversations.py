"""Rows in the shapes in which they come."""

from __future__ import annotations

import pytest

from compose_rl.config.data import TokenizeOptions

pytest.importorskip("torch")

from compose_rl.data.chat import RowError
from compose_rl.data.conversations import check_columns, draft, has_rewards
from compose_rl.errors import UserError

USER = {"role": "user", "content": "q"}
GOOD = {"role": "assistant", "content": "good"}
BAD = {"role": "assistant", "content": "bad"}


def drafted(kind: str, row: dict, rewards: bool = False, **options):
    return draft(row, TokenizeOptions(dataset_type=kind, **options), rewards)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": [USER], "chosen": "good", "rejected": "bad"},
        {"prompt": "q", "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": "q", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    ],
)
def test_every_shape_of_a_pair_is_the_same_pair(row: dict) -> None:
    result = drafted("preference", row)
    assert (result.prompt, result.answers) == ([USER], ("good", "bad"))


def test_columns_are_mapped_and_the_system_message_comes_first() -> None:
    row = {"question": "q", "good": "good", "rejected": "bad", "system": "be kind", "chosen": "not this"}
    result = drafted("preference", row, columns={"prompt": "question", "chosen": "good"})
    assert result.prompt == [{"role": "system", "content": "be kind"}, USER]
    assert result.answers == ("good", "bad")


def test_rewards_are_numbers() -> None:
    row = {"prompt": "q", "chosen": "a", "rejected": "b", "chosen_reward": "1.5", "rejected_reward": -2}
    assert drafted("preference", row, rewards=True).columns == {"chosen_reward": 1.5, "rejected_reward": -2.0}
    with pytest.raises(RowError, match="'chosen_reward' is no number"):
        drafted("preference", row | {"chosen_reward": None}, rewards=True)
    with pytest.raises(RowError, match="'rejected_reward' is not finite"):
        drafted("preference", row | {"rejected_reward": "nan"}, rewards=True)


@pytest.mark.parametrize(("value", "label"), [(True, 1), ("false", 0), (1, 1), ("0", 0)])
def test_labels_of_unpaired_answers(value: object, label: int) -> None:
    row = {"prompt": "q", "completion": "a", "label": value}
    assert drafted("unpaired_preference", row).columns == {"label": label}


@pytest.mark.parametrize(
    ("kind", "row", "reason"),
    [
        ("preference", {"prompt": "q", "chosen": "a ", "rejected": " a"}, "identical pair"),
        ("preference", {"prompt": "q", "chosen": "", "rejected": "b"}, "empty answer"),
        (
            "preference",
            {"prompt": "q", "chosen": "a", "rejected": [{"role": "assistant", "content": " "}]},
            "empty",
        ),
        ("preference", {"prompt": " ", "chosen": "a", "rejected": "b"}, "empty prompt"),
        ("preference", {"prompt": None, "chosen": "a", "rejected": "b"}, "no 'prompt'"),
        ("preference", {"prompt": "q", "chosen": 3, "rejected": "b"}, "neither text nor messages"),
        ("preference", {"prompt": "q", "chosen": [USER], "rejected": "b"}, "no answer"),
        (
            "preference",
            {"chosen": [USER, GOOD], "rejected": [GOOD, USER, BAD]},
            "prompts of the two answers differ",
        ),
        ("preference", {"prompt": [USER, GOOD], "chosen": "a", "rejected": "b"}, "ends with an answer"),
        ("preference", {"prompt": "q", "chosen": [{"role": "boss"}], "rejected": "b"}, "without a role"),
        ("preference", {"prompt": "q", "chosen": [{"role": "user"}], "rejected": "b"}, "content is no text"),
        (
            "unpaired_preference",
            {"prompt": "q", "completion": "a", "label": "maybe"},
            "neither true nor false",
        ),
        ("instruction", {"messages": [USER]}, "no assistant message"),
        ("instruction", {"messages": [GOOD, USER]}, "the last message is no answer"),
        ("instruction", {"prompt": "q", "response": ""}, "empty answer"),
        ("messages", {"messages": []}, "no list of messages"),
        ("verifiable_answers", {"prompt": "q", "answer": None}, "no 'answer'"),
        ("classifier", {"text": "t", "label": "high"}, "'label' is no number"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(kind: str, row: dict, reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        drafted(kind, row)


def test_a_prompt_and_response_are_a_conversation() -> None:
    from_text = drafted("instruction", {"prompt": "q", "response": "good"})
    from_messages = drafted("instruction", {"messages": [USER, GOOD]})
    assert from_text == from_messages
    assert from_text.conversation == [USER, GOOD]
    assert from_text.prompt == [USER]


def test_a_number_is_a_verifiable_answer() -> None:
    assert drafted("verifiable_answers", {"prompt": "q", "answer": 18}).columns == {"verified_answer": "18"}


@pytest.mark.parametrize(
    ("names", "columns", "message"),
    [
        (
            ["promt", "chosen", "rejected"],
            {},
            r"no column 'prompt' .*did you mean 'promt'\?.*columns: \{ours: theirs\}",
        ),
        (["a", "b"], {}, r"no column 'prompt' \(preference data needs it\); it has: a, b"),
        (
            ["question", "chosen", "rejected"],
            {"prompt": "qestion"},
            r"columns maps 'prompt' to it\); did you mean 'quest",
        ),
        (
            ["prompt", "chosen", "rejected", "chosen_reward"],
            {},
            "no 'rejected_reward'; rewards come in pairs",
        ),
    ],
)
def test_a_missing_column_is_named_with_the_nearest(names: list[str], columns: dict, message: str) -> None:
    options = TokenizeOptions(dataset_type="preference", columns=columns)
    with pytest.raises(UserError, match=message):
        check_columns(options, dict.fromkeys(names, "text"), "data.jsonl")


def test_pairs_of_messages_need_no_prompt_column() -> None:
    options = TokenizeOptions(dataset_type="preference")
    check_columns(options, {"chosen": [USER, GOOD], "rejected": [USER, BAD]}, "data.jsonl")
    assert not has_rewards(options, ["chosen", "rejected"])
    assert has_rewards(options, ["chosen", "rejected", "chosen_reward", "rejected_reward"])
