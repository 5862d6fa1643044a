"""Scores in padded batches are those of each sequence alone."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification  # noqa: E402

from compose_rl.evaluation import scoring  # noqa: E402
from compose_rl.models.hf_reward import AutoModelForCausalLMWithRM, RewardModelConfig  # noqa: E402

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [5, 6]]
ANSWERS = [[4, 3], [9, 9, 9, 9, 3], [6, 3], [7, 8, 9]]


def config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=30,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
        pad_token_id=3,
        eos_token_id=3,
        num_labels=1,
    )


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("budget", [1, 20, 4096])
def test_answer_logprobs_are_sums_over_the_answers_tokens(
    budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "TOKEN_BUDGET", budget)
    model = LlamaForCausalLM(config()).eval()
    expected = []
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        total = 0.0
        for place, token in enumerate(answer):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + answer[:place]])).logits[0, -1]
            total += (logits / 0.8).log_softmax(-1)[token].item()
        expected.append(total)
    told: list[int] = []
    found = scoring.answer_logprobs(model, PROMPTS, ANSWERS, temperature=0.8, done=told.append)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-4)
    assert sum(told) == 4


def test_an_empty_answer_has_probability_one() -> None:
    model = LlamaForCausalLM(config()).eval()
    assert scoring.answer_logprobs(model, [[5, 6]], [[]]).tolist() == [0.0]


@pytest.mark.parametrize("kind", ["sequence_classification", "reward_value_head"])
def test_rewards_are_read_at_the_last_token_even_where_it_is_the_padding_token(kind: str) -> None:
    if kind == "sequence_classification":
        model = LlamaForSequenceClassification(config()).eval()
        head = model.score
        body = model.model
    else:
        model = AutoModelForCausalLMWithRM(RewardModelConfig(base_config=config())).eval()
        head = model.value_head
        body = model.lm_backbone.model
    sequences = [prompt + answer for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
    with torch.no_grad():
        expected = [
            head(body(input_ids=torch.tensor([s])).last_hidden_state[0, -1]).item() for s in sequences
        ]
    found = scoring.rewards(model, sequences)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-4)
