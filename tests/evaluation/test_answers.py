"""Answers to held-out prompts: one each, decided by the prompt's own seed, whatever else is generated."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from small_llama import END, small_llama  # noqa: E402
from transformers import LlamaForCausalLM  # noqa: E402

from compose_rl.config.evaluate import Evaluate  # noqa: E402
from compose_rl.evaluation.answers import answer_prompts  # noqa: E402
from compose_rl.rollouts.types import Completion  # noqa: E402

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [5, 6], [20, 21, 22, 23]]
NO_TOKENIZER: Any = None
"""The model itself says what ends an answer."""


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return small_llama()


def answers(
    model: LlamaForCausalLM, prompts: list[list[int]] = PROMPTS, told: list[int] | None = None, **changes: Any
) -> list[Completion]:
    config = Evaluate.model_validate({"max_new_tokens": 12, "batch_size": 2} | changes)
    return answer_prompts(model, prompts, config, NO_TOKENIZER, [].append if told is None else told.append)


def greedy_by_hand(model: LlamaForCausalLM, prompt: list[int], new: int) -> tuple[list[int], bool]:
    """One prompt, no padding, no cache, a token at a time; and whether it came to its end."""
    tokens = list(prompt)
    for _ in range(new):
        with torch.no_grad():
            tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] == END:
            return tokens[len(prompt) :], True
    return tokens[len(prompt) :], False


def test_greedy_answers_are_those_of_each_prompt_alone(model: LlamaForCausalLM) -> None:
    expected = [greedy_by_hand(model, prompt, 12) for prompt in PROMPTS]
    for batch_size in (1, 2, 5):
        found = answers(model, temperature=0.0, batch_size=batch_size)
        assert [(list(answer.tokens), answer.finished) for answer in found] == expected


def test_a_seed_decides_the_samples_and_the_callers_random_state_stays(model: LlamaForCausalLM) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = answers(model)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert answers(model) == first
    assert answers(model, seed=2) != first


def test_a_sample_depends_on_its_own_seed_alone(model: LlamaForCausalLM) -> None:
    expected = [answer.tokens for answer in answers(model)]
    for batch_size in (1, 3, 64):
        assert [answer.tokens for answer in answers(model, batch_size=batch_size)] == expected
    assert [answer.tokens for answer in answers(model, PROMPTS[:2])] == expected[:2]


def test_samples_follow_the_models_distribution(model: LlamaForCausalLM) -> None:
    # 4000 first tokens after one prompt, at temperature 0.7, against softmax(logits / 0.7). Total variation
    # distance of a right sampler: about 0.03 at this count.
    found = answers(model, [PROMPTS[0]] * 4000, max_new_tokens=1, temperature=0.7, batch_size=4000)
    drawn = torch.bincount(torch.tensor([answer.tokens[0] for answer in found]), minlength=30) / 4000
    with torch.no_grad():
        expected = (model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1] / 0.7).softmax(-1)
    assert (drawn - expected).abs().sum().item() / 2 < 0.06


def test_an_answer_ends_with_its_stop_token_or_is_marked_as_cut(model: LlamaForCausalLM) -> None:
    for answer in answers(model, PROMPTS * 6, batch_size=7):
        assert END not in answer.tokens[:-1]
        assert answer.finished == (answer.tokens[-1] == END)
        assert answer.finished or len(answer.tokens) == 12


def test_progress_is_told_of_every_prompt(model: LlamaForCausalLM) -> None:
    told: list[int] = []
    answers(model, told=told)
    assert sum(told) == len(PROMPTS) and len(told) > 1
