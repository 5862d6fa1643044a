"""The reward server: the local model's scores, over HTTP, for as many as ask."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from answered import answered
from tiny_reward_models import write_reward_model
from tiny_training import EOS

from compose_rl.data.encoding import load_tokenizer, tokenizer_digest
from compose_rl.errors import UserError
from compose_rl.rewards.building import RewardContext
from compose_rl.rewards.manager import RewardManager
from compose_rl.rewards.reward_model.loading import load_scoring_model
from compose_rl.rewards.server.app import RewardServer
from compose_rl.rewards.server.scorer import Scorer
from compose_rl.rewards.types import RewardedSample

Make = Callable[..., RewardManager]
SAMPLES = [
    answered(" ".join(f"t{2 + i}" for i in range(n)), tokens=n, finished=False) for n in (1, 4, 2, 9, 3)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reward_model(tmp_path_factory.mktemp("served"))


@contextmanager
def serving(folder: Path) -> Iterator[RewardServer]:
    tokenizer = load_tokenizer(folder)
    scorer = Scorer(load_scoring_model(folder, "float32", "cpu"), tokenizer, 64)
    health = {"status": "ok", "tokenizer_sha256": tokenizer_digest(tokenizer)}
    with RewardServer(("127.0.0.1", 0), scorer, health, "") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(folder: Path) -> Iterator[RewardServer]:
    with serving(folder) as server:
        yield server


def url(server: RewardServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def remote(address: str, **keys: Any) -> dict[str, Any]:
    return {"rm": {"reward_type": "inference_reward_model", "url": address, "batch_size": 2} | keys}


def post(address: str, body: bytes, **headers: str) -> Any:
    request = urllib.request.Request(f"{address}/score", data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=20) as reply:
        return json.load(reply)


@pytest.mark.parametrize("send", ["tokens", "text"])
def test_the_server_gives_the_local_models_scores(
    send: str, server: RewardServer, folder: Path, make: Make
) -> None:
    context = RewardContext(load_tokenizer(folder), folder)
    samples = SAMPLES
    if send == "text":
        # The prompt's text, of which the server makes the tokens that the local model is given.
        samples = [type(s)("t7 t8", s.answer, s.prompt_tokens, s.answer_tokens, False) for s in SAMPLES]
    local = make({"rm": {"reward_type": "reward_model"}}, context).score(samples)
    served = make(remote(url(server), send=send), context).score(samples)
    torch.testing.assert_close(served.totals, local.totals, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "value_head"])
@pytest.mark.parametrize("send", ["tokens", "text"])
def test_the_server_gives_each_sentence_the_local_models_score(
    send: str, kind: str, tmp_path: Path, make: Make
) -> None:
    # Lines stand for sentences: the tokenizer of the tests has no full stop.
    texts = {"t4\nt6 t7": (4, 6, 7, EOS), "t9": (9, EOS), "t5 t8\nt3\nt2 t11": (5, 8, 3, 2, 11, EOS)}
    samples = [RewardedSample("t7 t8", text, (7, 8), tokens, True) for text, tokens in texts.items()]
    folder = write_reward_model(tmp_path, kind)
    context = RewardContext(load_tokenizer(folder), folder)
    sentences = {"granularity": "sentence"}
    local = make({"rm": {"reward_type": "reward_model"} | sentences}, context).score(samples)
    with serving(folder) as server:
        served = make(remote(url(server), send=send, **sentences), context).score(samples)
    torch.testing.assert_close(served.token_rewards, local.token_rewards, rtol=0, atol=1e-5)
    assert (local.token_rewards != 0).nonzero().flatten().tolist() == [0, 3, 5, 7, 8, 11]


def test_many_may_ask_at_a_time(server: RewardServer) -> None:
    def ask(number: int) -> list[float]:
        sequences = [{"prompt_tokens": [5, 6], "answer_tokens": [2 + number, 9]}] * (1 + number % 3)
        return post(url(server), json.dumps({"sequences": sequences}).encode())["scores"]

    alone = [ask(number) for number in range(12)]
    with ThreadPoolExecutor(12) as threads:
        together = list(threads.map(ask, range(12)))
    for one, other in zip(alone, together, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize(
    "body, reason",
    [
        ("no json", "Expecting value"),
        ("[]", "'sequences' is missing"),
        ('{"sequences": 3}', "'sequences' is missing, or no list"),
        ('{"sequences": [{"answer_tokens": [2]}]}', "sequence 0: KeyError: 'prompt_tokens'"),
        ('{"sequences": [{"prompt_tokens": [2], "answer_tokens": []}]}', "sequence 0 has an empty answer"),
        ('{"sequences": [{"prompt_tokens": [2], "answer_tokens": [64]}]}', "token 64 is not in 0..63"),
        ('{"sequences": [{"prompt_tokens": [2], "answer_tokens": [2.5]}]}', "token 2.5 is not in 0..63"),
        (
            '{"sequences": [{"prompt_tokens": [2], "answer_tokens": [3, 4], "points": [0, 2]}]}',
            "sequence 0: ValueError: points=[0, 2]: 2 is not in 0..1",
        ),
        (
            '{"sequences": [{"prompt": "t2", "answer": "t3 t4", "ends": [5, 2]}]}',
            "ends=[5, 2]: 2 is not in 5..5",
        ),
        ('{"sequences": [{"prompt": "t2", "answer": "t3", "ends": []}]}', "ends=[] is no list of whole"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_and_the_server_goes_on(
    body: str, reason: str, server: RewardServer
) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(url(server), body.encode())
    assert caught.value.code == 400 and reason in json.load(caught.value)["error"]
    assert len(post(url(server), b'{"sequences": [{"prompt": "t5", "answer": "t6"}]}')["scores"]) == 1


def long(tokens: int) -> RewardedSample:
    return RewardedSample("", "", (7, 8), (5,) * tokens, False)


def test_a_sequence_over_the_models_context_is_told_apart(server: RewardServer, make: Make) -> None:
    context = RewardContext(load_tokenizer(server.scorer._tokenizer.name_or_path))
    rewarded = make(remote(url(server)), context).score([long(62), long(63)])
    assert rewarded.lost.tolist() == [False, True]
    assert "has 65 tokens, and the reward model takes 64" in rewarded.failures["rm"].first


def test_tokens_of_another_vocabulary_are_refused_before_any_is_sent(
    server: RewardServer, make: Make, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(server.scorer._tokenizer.name_or_path)
    tokenizer.add_tokens(["more"])
    with pytest.raises(UserError, match="another tokenizer than the policy; set send: text"):
        make(remote(url(server)), RewardContext(tokenizer))


def test_a_server_with_a_token_answers_its_bearers_only(
    server: RewardServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.token = "letmein"
    context = RewardContext(load_tokenizer(server.scorer._tokenizer.name_or_path))
    assert "HTTP 401" in make(remote(url(server)), context).score(SAMPLES).failures["rm"].first
    monkeypatch.setenv("REWARD_TOKEN", "letmein")
    assert not make(remote(url(server), api_key_env="REWARD_TOKEN"), context).score(SAMPLES).failures


@pytest.mark.slow
def test_the_command_serves_until_it_is_told_to_stop(folder: Path) -> None:
    command = [sys.executable, "-m", "compose_rl.rewards.server", "--model", str(folder), "--port", "0"]
    environment = os.environ | {"COMPOSE_RL_REWARD_TOKEN": ""}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found
            scores = post(found[0], b'{"sequences": [{"prompt_tokens": [5], "answer_tokens": [6]}]}')[
                "scores"
            ]
            assert len(scores) == 1
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_the_command_refuses_what_is_no_reward_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from compose_rl.rewards.server.__main__ import main

    assert main(["--model", str(tmp_path), "--port", "0"]) == 2
    assert "no config.json" in capsys.readouterr().err
