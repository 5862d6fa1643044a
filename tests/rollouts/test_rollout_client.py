"""The client against real servers in threads, and against ones that answer wrongly."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from small_llama import END, VOCAB, small_llama  # noqa: E402

from compose_rl.config.rollouts import RolloutEngine  # noqa: E402
from compose_rl.errors import TransientError, UserError  # noqa: E402
from compose_rl.rollouts import shipping, telling  # noqa: E402
from compose_rl.rollouts.client import ServerGenerator  # noqa: E402
from compose_rl.rollouts.hf import HFGenerator  # noqa: E402
from compose_rl.rollouts.places import GivenServers  # noqa: E402
from compose_rl.rollouts.server.hf_backend import HFBackend  # noqa: E402
from compose_rl.rollouts.types import Completion, Request, Sampling  # noqa: E402

SAMPLING = Sampling(max_new_tokens=6, temperature=0.9, stop=(END,))
REQUESTS = [Request(tuple(range(5, 6 + n % 4)), (10 * n, 10 * n + 1)) for n in range(9)]


def tokens(groups: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[answer.tokens for answer in group] for group in groups]


def changed_model() -> Any:
    model = small_llama()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.6)
    return model


def left_over() -> list[Path]:
    return list(Path("/dev/shm").glob(f"compose-rl-weights-{os.getpid()}-*"))


def test_servers_answer_as_the_embedded_engine_does(serve: Callable[..., Any], model: Any):
    urls = [serve()[0], serve()[0]]
    expected = tokens(HFGenerator(model, rows=8).generate(REQUESTS, SAMPLING))
    client = ServerGenerator(urls)
    told: list[int] = []
    assert tokens(client.generate(REQUESTS, SAMPLING, told.append)) == expected
    assert sum(told) == 18
    assert tokens(client.generate(REQUESTS[::-1], SAMPLING)) == expected[::-1]
    client.close()


@pytest.mark.parametrize("same_machine", [True, False])
def test_pushed_weights_change_answers_on_every_server(
    serve: Callable[..., Any], same_machine: bool, monkeypatch: pytest.MonkeyPatch
):
    (first, one), (second, two) = serve(), serve()
    if not same_machine:
        # A folder that the servers do not see is what another machine is.
        elsewhere = shipping.Connection.weights_at
        monkeypatch.setattr(
            shipping.Connection,
            "weights_at",
            lambda self, path, version: elsewhere(self, path / "x", version),
        )
    client = ServerGenerator([first, second])
    other = changed_model()
    pushed = client.push(other.named_parameters(), 5)
    assert pushed.bytes == sum(weight.numel() * 4 for weight in other.parameters())
    assert one.backend.version == two.backend.version == 5
    answers = client.generate(REQUESTS, SAMPLING)
    assert tokens(answers) == tokens(HFGenerator(other, rows=8).generate(REQUESTS, SAMPLING))
    assert {answer.version for group in answers for answer in group} == {5}
    assert len(left_over()) == 1
    client.push(other.named_parameters(), 6)
    assert len(left_over()) == 1
    client.close()
    assert left_over() == []


def test_tied_weights_go_once(tmp_path: Path, serve: Callable[..., Any]):
    tied = small_llama(tie_word_embeddings=True)
    tied.save_pretrained(tmp_path / "tied")
    url, server = serve(model=tmp_path / "tied")
    client = ServerGenerator([url])
    client.push(tied.state_dict().items(), 1)
    # Gathered weights may be copies.
    copies = {name: weight.clone() for name, weight in tied.state_dict().items()}
    assert "lm_head.weight" in copies
    client.push(copies.items(), 2)
    assert server.backend.version == 2
    assert tokens(client.generate(REQUESTS, SAMPLING)) == tokens(
        HFGenerator(tied, rows=8).generate(REQUESTS, SAMPLING)
    )
    client.close()


def test_weights_of_another_model_are_refused(serve: Callable[..., Any]):
    client = ServerGenerator([serve()[0]])
    with pytest.raises(UserError, match=r"has shape \[41, 32\], the model's has \[40, 32\]"):
        client.push(small_llama(vocab_size=41).named_parameters(), 1)
    client.close()


class Wrong(HFBackend):
    """An engine whose answers are changed before they are sent."""

    def __init__(self, folder: Path, change: Callable[[Completion], Completion]) -> None:
        super().__init__(folder, RolloutEngine())
        self.change = change

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        return [[self.change(answer) for answer in group] for group in super().generate(requests, sampling)]


class Waiting(HFBackend):
    """An engine whose answers are sent only after the client told of them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, RolloutEngine())
        self.told = threading.Event()

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        answers = super().generate(requests, sampling)
        assert self.told.wait(30)
        return answers


def test_what_one_server_has_written_is_told_before_it_answers(
    serve: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(telling, "_LOOK", 0.01)
    backend = Waiting(folder)
    client = ServerGenerator([serve(backend=backend)[0]])
    told: list[int] = []

    def done(count: int) -> None:
        told.append(count)
        if sum(told) == 18:
            backend.told.set()

    client.generate(REQUESTS, SAMPLING, done)
    assert sum(told) == 18
    told.clear()
    client.generate(REQUESTS[:3], SAMPLING, done)
    assert sum(told) == 6
    client.close()


def replacing(**values: Any) -> Callable[[Completion], Completion]:
    return lambda answer: dataclasses.replace(answer, **values)


@pytest.mark.parametrize(
    "change, message",
    [
        (replacing(tokens=(5, VOCAB), logprobs=(-1.0, -1.0)), r"token \[40\] is not in the vocabulary of 40"),
        (replacing(tokens=(5,) * 7, logprobs=(-1.0,) * 7), "has 7 tokens, not 1 to 6"),
        (replacing(tokens=(), logprobs=()), "has 0 tokens, not 1 to 6"),
        (replacing(tokens=(5, END), logprobs=(-1.0,), finished=True), "2 tokens have 1 log-probabilities"),
        (replacing(tokens=(END,), logprobs=(0.5,), finished=True), r"a log-probability is \[0.5\]"),
        (replacing(tokens=(END,), logprobs=(float("nan"),), finished=True), "its answer is wrong"),
        (replacing(tokens=(END, 5), logprobs=(-1.0, -1.0)), r"goes on after its end token \[3\]"),
        (replacing(tokens=(5, 6), logprobs=(-1.0, -1.0), finished=False), "of 2 tokens says finished=False"),
        (replacing(tokens=(5,) * 6, logprobs=(-1.0,) * 6, finished=True), "says finished=True and ends with"),
        (replacing(version=8), "an answer is of weights 8, not 0"),
    ],
)
def test_answers_that_cannot_be_are_refused(
    serve: Callable[..., Any], folder: Path, change: Callable[[Completion], Completion], message: str
):
    client = ServerGenerator([serve(backend=Wrong(folder, change))[0]])
    with pytest.raises(UserError, match=message):
        client.generate(REQUESTS, SAMPLING)
    client.close()


class Short(HFBackend):
    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        return super().generate(requests, sampling)[:-1]


def test_missing_answers_are_refused_with_the_counts(serve: Callable[..., Any], folder: Path):
    client = ServerGenerator([serve(backend=Short(folder, RolloutEngine()))[0]])
    with pytest.raises(UserError, match="16 answers to 8 prompts came, 18 to 9 were asked for"):
        client.generate(REQUESTS, SAMPLING)
    client.close()


class Broken(HFBackend):
    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        raise RuntimeError("out of memory")


def test_another_server_takes_over_what_one_could_not_do(serve: Callable[..., Any], folder: Path, model: Any):
    said: list[str] = []
    urls = [serve(backend=Broken(folder, RolloutEngine()))[0], serve()[0]]
    client = ServerGenerator(urls, say=said.append)
    assert tokens(client.generate(REQUESTS, SAMPLING)) == tokens(
        HFGenerator(model, rows=8).generate(REQUESTS, SAMPLING)
    )
    client.close()
    client = ServerGenerator(urls[:1], say=said.append)
    with pytest.raises(TransientError, match=r"rollout server 0: .*500 RuntimeError: out of memory"):
        client.generate(REQUESTS, SAMPLING)
    assert any("its part is done again" in line for line in said)
    client.close()


class Stuck(HFBackend):
    def load_weights(self, folder: Path, version: int) -> None:
        raise RuntimeError("a worker died")


class Replaced(GivenServers):
    """Another server stands in for one that is lost."""

    def __init__(self, url: str, other: str) -> None:
        super().__init__([url], start_timeout=30)
        self.other = other

    def lost(self, index: int, url: str) -> None:
        self._urls[index] = self.other


def test_a_server_that_could_not_take_weights_is_replaced(serve: Callable[..., Any], folder: Path):
    stuck, (other, server) = serve(backend=Stuck(folder, RolloutEngine()))[0], serve()
    client = ServerGenerator(Replaced(stuck, other))
    client.push(changed_model().named_parameters(), 1)
    assert server.backend.version == 1
    client.close()


def test_a_server_that_came_back_with_old_weights_gets_the_newest(serve: Callable[..., Any], folder: Path):
    url, server = serve()
    client = ServerGenerator([url])
    other = changed_model()
    client.push(other.named_parameters(), 4)
    server.backend = HFBackend(folder, RolloutEngine())
    answers = client.generate(REQUESTS, SAMPLING)
    assert tokens(answers) == tokens(HFGenerator(other, rows=8).generate(REQUESTS, SAMPLING))
    assert answers[0][0].version == server.backend.version == 4
    client.close()


def test_weights_of_before_are_not_taken_for_ours(serve: Callable[..., Any]):
    url, _ = serve()
    before = ServerGenerator([url])
    before.push(changed_model().named_parameters(), 3)
    before.close()
    client = ServerGenerator([url])
    with pytest.raises(UserError, match="has weights 3, and none were pushed"):
        client.generate(REQUESTS, SAMPLING)
    client.close()


def test_no_server_there_is_told_in_time():
    client = ServerGenerator(["http://127.0.0.1:9"], start_timeout=0.3)
    with pytest.raises(TransientError, match="rollout server 0: not there after 0 s"):
        client.generate(REQUESTS, SAMPLING)
    with pytest.raises(UserError, match="give addresses such as"):
        ServerGenerator(["localhost:80"]).generate(REQUESTS, SAMPLING)
    with pytest.raises(UserError, match="no servers"):
        ServerGenerator([])


def test_prompts_are_checked_before_they_are_sent(serve: Callable[..., Any]):
    client = ServerGenerator([serve()[0]])
    with pytest.raises(UserError, match="prompt 0: 60 tokens and an answer of max_gen_len=6"):
        client.generate([Request((5,) * 60, (1,))], SAMPLING)
    client.close()
