"""Models whose cache cannot be kept in rows, against the models run plainly, a token at a time."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from small_llama import END, VOCAB, small_llama  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    MambaConfig,
    MistralConfig,
    MptConfig,
    PretrainedConfig,
)

from compose_rl.rollouts.hf import HFGenerator  # noqa: E402
from compose_rl.rollouts.sampling import uniform_numbers  # noqa: E402
from compose_rl.rollouts.states import keeps_rows  # noqa: E402
from compose_rl.rollouts.types import Request, Sampling  # noqa: E402

NEW = 8
REQUESTS = [
    Request((5, 6, 7), (1, 2, 3)),
    Request((8,), (4,)),
    Request((9, 10, 11, 12, 13, 14), (5, 6)),
]
TOKENS = {"vocab_size": VOCAB, "bos_token_id": None, "eos_token_id": END, "pad_token_id": 0}
CONFIGS = {
    "learned positions": GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **TOKENS),
    "alibi": MptConfig(d_model=32, n_heads=4, n_layers=2, max_seq_len=64, **TOKENS),
    "alibi from the mask": BloomConfig(hidden_size=32, n_layer=2, n_head=4, **TOKENS),
    "window": MistralConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=4,
        **TOKENS,
    ),
    "recurrent": MambaConfig(hidden_size=32, state_size=4, num_hidden_layers=2, **TOKENS),
}


def make(config: PretrainedConfig) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.3)
    return model


def by_hand(model: Any, request: Request, seed: int, sampling: Sampling) -> tuple[list[int], list[float]]:
    """Tokens of one answer without padding and cache, and their log-probabilities."""
    tokens, logprobs = list(request.prompt), []
    for u in uniform_numbers(seed, sampling.max_new_tokens):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1].double()
        probabilities = (logits / (sampling.temperature or 1.0)).softmax(-1)
        chosen = int((probabilities.cumsum(-1) <= u).sum()) if sampling.temperature else int(logits.argmax())
        tokens.append(chosen)
        logprobs.append(probabilities[chosen].log().item() if sampling.temperature else 0.0)
        if chosen in sampling.stop:
            break
    return tokens[len(request.prompt) :], logprobs


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("name", CONFIGS)
def test_answers_are_those_of_each_prompt_alone(name: str, temperature: float):
    model = make(CONFIGS[name])
    assert not keeps_rows(model, 14)
    sampling = Sampling(NEW, temperature, (END, 4, 9))
    told: list[int] = []
    groups = HFGenerator(model, rows=4).generate(REQUESTS, sampling, told.append)
    for request, group in zip(REQUESTS, groups, strict=True):
        assert len(group) == len(request.seeds)
        for seed, answer in zip(request.seeds, group, strict=True):
            tokens, logprobs = by_hand(model, request, seed, sampling)
            assert list(answer.tokens) == tokens
            assert answer.logprobs == pytest.approx(logprobs, abs=3e-5)
            assert answer.finished == (tokens[-1] in sampling.stop)
    assert told == [4, 2]


def test_a_window_that_is_never_reached_is_none():
    model = make(CONFIGS["window"])
    assert keeps_rows(model, 4) and not keeps_rows(model, 5)


def test_settings_of_a_models_own_generation_change_nothing():
    model = small_llama()
    model._supports_static_cache = False
    sampling = Sampling(NEW, 0.8, (END,))
    expected = HFGenerator(model, rows=4).generate(REQUESTS, sampling)
    model.generation_config.repetition_penalty = 9.0
    model.generation_config.max_new_tokens = 2
    assert HFGenerator(model, rows=4).generate(REQUESTS, sampling) == expected
