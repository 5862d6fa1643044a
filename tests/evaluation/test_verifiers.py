"""Verifiers on answers as models give them."""

from __future__ import annotations

import pytest

from compose_rl.evaluation.verifiers import gsm8k, load


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("16 - 7 = 9 eggs, so 2 * 9 = $18 per day\nA: 18", "#### 18", True),
        ("A: 18", "18", True),
        ("#### 1,200", "A: 1200", True),
        ("The answer is $18.00.", "A: 18", True),
        ("She makes 18 dollars every day.", "A: 18", True),
        ("A: 18\nSo she has 20 left over.", "A: 18", True),
        ("It is -3", "-3", True),
        ("A: 26", "A: 18", False),
        ("A: 180", "A: 18", False),
        ("18 eggs, 7 used, 11 left", "A: 18", False),
        ("I do not know.", "A: 18", False),
        ("", "A: 18", False),
    ],
)
def test_gsm8k_compares_final_numbers(answer: str, reference: str, right: bool) -> None:
    assert gsm8k("", answer, reference) is right


def test_a_verifier_is_found_by_short_name_and_by_dotted_path() -> None:
    assert load("gsm8k") is gsm8k
    assert load("compose_rl.evaluation.verifiers.gsm8k") is gsm8k
