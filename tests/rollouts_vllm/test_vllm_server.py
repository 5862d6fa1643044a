"""Generation by a real vLLM behind the rollout server: the same model as transformers', whatever happens."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm_models import END, LONG, REQUESTS, SAMPLING, VOCAB, gaps_to, llama, weights_of

from compose_rl.config.rollouts import RolloutEngine
from compose_rl.errors import UserError
from compose_rl.rollouts.client import ServerGenerator
from compose_rl.rollouts.connection import Connection
from compose_rl.rollouts.types import Request, Sampling


def test_logprobs_are_those_of_transformers_at_the_temperature(
    generator: ServerGenerator, models: list[Any]
) -> None:
    generator.push(weights_of(models[0]), 1)
    assert max(gaps_to(models[0], REQUESTS, generator.generate(REQUESTS, SAMPLING), 0.7)) < 1e-3


def test_an_answer_depends_on_its_seed_and_not_on_its_neighbours(
    generator: ServerGenerator, models: list[Any]
) -> None:
    generator.push(weights_of(models[0]), 2)
    together = generator.generate(REQUESTS, SAMPLING)
    alone = [generator.generate([request], SAMPLING)[0] for request in reversed(REQUESTS)][::-1]
    assert [[answer.tokens for answer in group] for group in together] == [
        [answer.tokens for answer in group] for group in alone
    ]
    assert all(first.tokens != second.tokens for first, second in together)


def test_prompts_that_do_not_fit_into_one_step_are_answered(
    generator: ServerGenerator, models: list[Any]
) -> None:
    generator.push(weights_of(models[0]), 2)
    many = [Request((first, *LONG.prompt), (first, first + 1)) for first in range(5, 11)]
    assert max(gaps_to(models[0], many, generator.generate(many, SAMPLING), 0.7)) < 1e-3


def test_a_server_counts_the_answers_that_it_has_written(
    generator: ServerGenerator, models: list[Any]
) -> None:
    generator.push(weights_of(models[0]), 2)
    server = Connection(generator._servers.url(0), 30)
    before = server.health()["answered"]
    generator.generate(REQUESTS, SAMPLING)
    assert server.health()["answered"] == before + 8


def test_only_the_tokens_of_stop_end_an_answer_and_stay_in_it(
    generator: ServerGenerator, models: list[Any]
) -> None:
    generator.push(weights_of(models[0]), 3)
    many = [Request((5, 6, 7), tuple(range(60)))]
    (ended,) = generator.generate(many, SAMPLING)
    assert {answer.tokens[-1] == END for answer in ended} == {True, False}
    assert all(answer.finished == (answer.tokens[-1] == END) for answer in ended)
    (going_on,) = generator.generate(many, Sampling(24, 0.7, stop=(VOCAB - 1,)))
    assert any(END in answer.tokens[:-1] for answer in going_on)


def test_pushed_weights_answer_at_once_and_leave_nothing_of_the_old_in_the_prefix_cache(
    generator: ServerGenerator, models: list[Any]
) -> None:
    generator.push(weights_of(models[0]), 4)
    before = generator.generate([LONG], SAMPLING)
    pushed = generator.push(weights_of(models[1]), 5)
    after = generator.generate([LONG], SAMPLING)
    assert pushed.bytes == sum(4 * tensor.numel() for _, tensor in weights_of(models[1]))
    assert [answer.version for answer in after[0]] == [5, 5]
    assert before[0][0].tokens != after[0][0].tokens
    assert max(gaps_to(models[1], [LONG], after, 0.7)) < 1e-3


def test_a_killed_server_is_started_again_with_the_newest_weights(
    generator: ServerGenerator, models: list[Any]
) -> None:
    generator.push(weights_of(models[1]), 6)
    before = generator.generate(REQUESTS, SAMPLING)
    pid = generator._servers._started[0].process.pid
    os.kill(pid, signal.SIGKILL)
    after = generator.generate(REQUESTS, SAMPLING)
    assert generator._servers._started[0].process.pid != pid
    assert [[a.tokens for a in group] for group in after] == [[a.tokens for a in group] for group in before]
    assert {answer.version for group in after for answer in group} == {6}


def test_another_vocabulary_is_refused_and_the_old_weights_go_on(
    generator: ServerGenerator, models: list[Any]
) -> None:
    generator.push(weights_of(models[0]), 7)
    with pytest.raises(UserError, match=rf"shape \[{VOCAB + 16}, 64\], the model's has \[{VOCAB}, 64\]"):
        generator.push(weights_of(llama(0, vocab_size=VOCAB + 16)), 8)
    with pytest.raises(UserError, match=f"token {VOCAB} is not in the model's vocabulary of {VOCAB}"):
        generator.generate([Request((5, VOCAB), (1,))], SAMPLING)
    generator.push(weights_of(models[0]), 9)
    assert max(gaps_to(models[0], REQUESTS, generator.generate(REQUESTS, SAMPLING), 0.7)) < 1e-3


def test_a_nucleus_whose_logprobs_vllm_does_not_have_is_refused_with_the_remedy(
    generator: ServerGenerator, models: list[Any]
) -> None:
    generator.push(weights_of(models[0]), 10)
    with pytest.raises(UserError, match=r"set engine\.options\.logprobs_mode: raw_logprobs"):
        generator.generate(REQUESTS, Sampling(8, 1.0, (END,), top_p=0.9))
    with pytest.raises(UserError, match="set temperature: 1, or top_p: 1 and top_k: 0"):
        generator.generate(REQUESTS, Sampling(8, 0.7, (END,), top_k=5))


def test_bfloat16_and_a_nucleus_agree_with_transformers(start: Any, models: list[Any]) -> None:
    engine = start(models[0], dtype="bfloat16", options={"logprobs_mode": "raw_logprobs"})
    engine.push(weights_of(models[1]), 1)
    sampling = Sampling(max_new_tokens=24, temperature=1.0, stop=(END,), top_p=0.9)
    rounded = llama(1).to(torch.bfloat16).float()
    gaps = gaps_to(rounded, REQUESTS, engine.generate(REQUESTS, sampling), 1.0)
    # In the mean: of logits of several units in a format of 8 bits, single tokens are off by a tenth.
    assert sum(gaps) / len(gaps) < 2e-2
    with pytest.raises(UserError, match="logprobs_mode: processed_logprobs"):
        engine.generate(REQUESTS, SAMPLING)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "vLLM refuses .*head_dim=16"),
        ({"sleep": True}, "engine.sleep: true frees a GPU's memory"),
        ({"options": {"max_seqs": 3}}, "engine.options.max_seqs: 3: vLLM has no such argument"),
    ],
)
def test_what_vllm_cannot_do_ends_the_start_with_one_line(
    start: Any, too_narrow: Any, settings: dict[str, Any], message: str
) -> None:
    if torch.cuda.is_available():
        pytest.skip("these are limits of vLLM on CPU")
    with pytest.raises(UserError, match=message) as refused:
        start(too_narrow, **settings).push(weights_of(too_narrow), 1)
    assert "\n" not in str(refused.value)


def test_nccl_is_refused_with_the_versions_of_both_sides(
    generator: ServerGenerator, start: Any, models: list[Any]
) -> None:
    url = generator._servers.url(0)
    engine = RolloutEngine.model_validate({"kind": "vllm", "urls": [url], "sync": "nccl"})
    other = start(models[0], urls=engine.urls, sync=engine.sync)
    with pytest.raises(
        UserError, match=r"the trainer has NCCL 2\.26\.2 .* the server NCCL 2\.29\.7 .*sync: file"
    ):
        other.push(weights_of(models[0]), 1)


def test_tied_embeddings_are_pushed_to_both_ends(start: Any, tmp_path: Path) -> None:
    """They come once, and vLLM's output layer must not keep the old ones."""
    old, new = (llama(seed, tie_word_embeddings=True) for seed in (2, 3))
    old.name_or_path = str(tmp_path)
    old.save_pretrained(tmp_path)
    engine = start(old)
    engine.push(weights_of(new), 1)
    assert "lm_head.weight" not in dict(weights_of(new))
    assert max(gaps_to(new, REQUESTS, engine.generate(REQUESTS, SAMPLING), 0.7)) < 1e-3
