"""Generation: the same for the same seed, one answer per prompt, padding changes nothing."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from compose_rl.evaluation.generation import Answer, Sampling, generate, stop_tokens  # noqa: E402

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [5, 6], [20, 21, 22, 23]]
END = 3


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=30,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=END,
    )
    return LlamaForCausalLM(config).eval()


def sampling(**changes: object) -> Sampling:
    values = {"max_new_tokens": 12, "temperature": 1.0, "seed": 1, "batch_size": 2, "stop": (END,), "pad": 0}
    return Sampling(**(values | changes))


def greedy_by_hand(model: LlamaForCausalLM, prompt: list[int], new: int) -> Answer:
    """One prompt, no padding, no cache, a token at a time."""
    tokens = list(prompt)
    for _ in range(new):
        with torch.no_grad():
            tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] == END:
            return Answer(tokens[len(prompt) :], finished=True)
    return Answer(tokens[len(prompt) :], finished=False)


def test_greedy_answers_in_padded_batches_are_those_of_each_prompt_alone(model: LlamaForCausalLM) -> None:
    expected = [greedy_by_hand(model, prompt, 12) for prompt in PROMPTS]
    for batch_size in (1, 2, 5):
        assert generate(model, PROMPTS, sampling(temperature=0.0, batch_size=batch_size)) == expected


def test_a_seed_decides_the_samples_and_the_callers_random_state_stays(model: LlamaForCausalLM) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = generate(model, PROMPTS, sampling())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert generate(model, PROMPTS, sampling()) == first
    assert generate(model, PROMPTS, sampling(seed=2)) != first


def test_samples_follow_the_models_distribution(model: LlamaForCausalLM) -> None:
    # 4000 first tokens after one prompt, at temperature 0.7, against softmax(logits / 0.7). Total variation
    # distance of a right sampler: about 0.03 at this count.
    answers = generate(
        model, [PROMPTS[0]] * 4000, sampling(max_new_tokens=1, temperature=0.7, batch_size=4000)
    )
    drawn = torch.bincount(torch.tensor([a.tokens[0] for a in answers]), minlength=30) / 4000
    with torch.no_grad():
        expected = (model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1] / 0.7).softmax(-1)
    assert (drawn - expected).abs().sum().item() / 2 < 0.06


def test_an_answer_ends_with_its_stop_token_or_is_marked_as_cut(model: LlamaForCausalLM) -> None:
    for answer in generate(model, PROMPTS * 6, sampling(batch_size=7)):
        assert END not in answer.tokens[:-1]
        assert answer.finished == (answer.tokens[-1] == END)
        assert answer.finished or len(answer.tokens) == 12


def test_progress_is_told_of_every_prompt(model: LlamaForCausalLM) -> None:
    told: list[int] = []
    generate(model, PROMPTS, sampling(), told.append)
    assert told == [2, 2, 1]


def test_the_models_own_end_tokens_come_before_the_tokenizers(model: LlamaForCausalLM) -> None:
    assert stop_tokens(model, 9) == (END,)
    model.generation_config.eos_token_id = [4, 5]
    assert stop_tokens(model, 9) == (4, 5)
    model.generation_config.eos_token_id = None
    assert stop_tokens(model, 9) == (9,)
    assert stop_tokens(model, None) == ()
    model.generation_config.eos_token_id = END
