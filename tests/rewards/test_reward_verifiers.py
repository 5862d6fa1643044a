"""Verifiers on texts whose right verdict is known from elsewhere: GSM8K's rows, MATH's conventions."""

from __future__ import annotations

from typing import Any

import pytest
from answered import answered

from compose_rl.config.rewards import parse_rewards
from compose_rl.rewards.boxed import last_boxed
from compose_rl.rewards.building import reward_class
from compose_rl.rewards.mcqa_verifier import chosen_letter

NATALIA = (
    "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n"
    "Natalia sold 48+24 = <<48+24=72>>72 clips altogether in April and May.\n#### 72"
)
WENG = "Weng earns 12/60 = $<<12/60=0.2>>0.2 per minute.\nIn 50 minutes she earned $<<0.2*50=10>>10.\n#### 10"


def judged(kind: str, answer: str, reference: str | None = None, **keys: Any) -> float:
    settings = parse_rewards({"it": {"reward_type": kind} | keys})["it"]
    (score,) = reward_class(settings)(settings)([answered(answer, reference)])
    return score


@pytest.mark.parametrize(
    "answer, reference, right",
    [
        (NATALIA, "72", True),
        (NATALIA, NATALIA, True),
        (WENG, "10", True),
        (WENG, NATALIA, False),
        ("She has 72 clips.", "72", True),
        ("First 24, then 72.0", "72", True),
        ("The answer is $1,234.50, of 7 items.", "1234.5", True),
        ("#### -5", "-5", True),
        ("#### 5", "-5", False),
        ("no number at all", "72", False),
        ("", "72", False),
    ],
)
def test_gsm8k_compares_final_numbers(answer: str, reference: str, right: bool) -> None:
    assert judged("gsm8k_verifier", answer, reference, reward=4.0) == (4.0 if right else 0.0)


@pytest.mark.parametrize(
    "answer, marked",
    [
        (NATALIA, True),
        ("#### The result: $1,000", True),
        ("72", False),
        ("####\n72", False),
        ("#### ?", False),
    ],
)
def test_gsm8k_format_is_a_marked_number(answer: str, marked: bool) -> None:
    assert judged("gsm8k_format_verifier", answer) == float(marked)


@pytest.mark.parametrize(
    "kind, reference",
    [
        ("gsm8k_verifier", None),
        ("gsm8k_verifier", "none"),
        ("math_verifier", None),
        ("mcqa_verifier", "zebra"),
    ],
)
def test_a_missing_known_answer_is_an_error_not_a_wrong_answer(kind: str, reference: str | None) -> None:
    with pytest.raises(ValueError, match="verified_answer"):
        judged(kind, "\\boxed{5}", reference)


@pytest.mark.parametrize(
    "text, inner",
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} or rather \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\fbox{7}", "7"),
        (r"\boxed 9", "9"),
        (r"\boxed{3} and an open \boxed{4", "3"),
        (r"\boxed{", None),
        (r"\boxed", None),
        ("none", None),
    ],
)
def test_the_last_closed_box_counts(text: str, inner: str | None) -> None:
    assert last_boxed(text) == inner
    assert judged("math_format_verifier", text) == float(inner is not None)


@pytest.mark.parametrize(
    "known, given, right",
    [
        (r"\frac{1}{2}", "0.5", True),
        (r"\frac12", r"\dfrac{1}{2}", True),
        ("10,000", "10000", True),
        ("5", "x = 5", True),
        (r"2\sqrt{2}", r"\sqrt{8}", True),
        (r"(1,2)", r"\left( 1, 2 \right)", True),
        (r"90^\circ", "90", True),
        (r"\text{Tuesday}", "Tuesday", True),
        ("x^2+2x+1", "(x+1)^2", True),
        ("[0,1)", "[0,1]", False),
        (r"\frac{1}{2}", r"\frac{1}{3}", False),
        ("5", "-5", False),
        ("7", r"\text{seven or so}", False),
        (r"\boxed{7}", "7", True),
    ],
)
def test_math_compares_values(known: str, given: str, right: bool) -> None:
    assert judged("math_verifier", rf"Thus $\boxed{{{given}}}$.", known) == float(right)


def test_math_wants_a_box() -> None:
    assert judged("math_verifier", "It is 5.", "5") == 0.0


@pytest.mark.parametrize(
    "text, letter",
    [
        (r"\boxed{B}", "B"),
        (r"\boxed{\text{(C)}}", "C"),
        ("The answer is (D).", "D"),
        ("the correct answer is **A**", "A"),
        ("Answer: C", "C"),
        ("The answer is A. No, wait: the answer is B.", "B"),
        ("I choose option E because it is bigger", "E"),
        ("(A) is wrong, so (B)", "B"),
        ("B. Paris", "B"),
        ("C", "C"),
        ("A cat sat there", None),
        ("The answer is Apple", None),
        ("", None),
    ],
)
def test_the_chosen_letter_is_found(text: str, letter: str | None) -> None:
    assert chosen_letter(text) == letter


@pytest.mark.parametrize("reference", ["B", "(B)", "B. Paris", "**B**"])
def test_mcqa_compares_letters(reference: str) -> None:
    assert judged("mcqa_verifier", "The answer is B", reference) == 1.0
    assert judged("mcqa_verifier", "The answer is C", reference) == 0.0
    assert judged("mcqa_verifier", "I do not know", reference) == 0.0


@pytest.mark.parametrize(
    "text, share",
    [
        ("1 2 3", 1.0),
        ("1 2 2 3", 0.5),
        ("one 1 two 2", 0.5),
        ("3 1 2 4", 0.25),
        ("none", 0.0),
        ("", 0.0),
        ("nan", 0.0),
    ],
)
def test_increasing_numbers(text: str, share: float) -> None:
    assert judged("increasing_numbers", text) == share


def test_lengths_are_counted_in_tokens() -> None:
    assert judged("output_length", "ignored", max_gen_len=12) == 0.25
    assert judged("short_response_reward", "ignored", reward=-1, len_threshold=3) == -1
    assert judged("short_response_reward", "ignored", reward=-1, len_threshold=2) == 0


def test_the_known_answer_of_messages_is_in_their_metadata() -> None:
    assert answered(metadata={"verified_answer": 72}).reference == "72"
