"""The server's protocol over real HTTP."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402
from small_llama import VOCAB, small_llama  # noqa: E402

from compose_rl.config.rollouts import RolloutEngine  # noqa: E402
from compose_rl.rollouts.messages import TOKEN_VARIABLE  # noqa: E402
from compose_rl.rollouts.server.hf_backend import HFBackend  # noqa: E402
from compose_rl.rollouts.types import Completion, Request, Sampling  # noqa: E402

ASKED = {
    "requests": [{"prompt": [5, 6, 7], "seeds": [1, 2]}],
    "sampling": {"max_new_tokens": 4, "temperature": 1.0, "stop": [3]},
}


def call(url: str, method: str, path: str, body: Any = b"", **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, data, headers)
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    return answer.status, content


def write_weights(folder: Path, scale: float = 0.5, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    weights = {
        name: (w.detach() * scale).contiguous() for name, w in small_llama(**changes).named_parameters()
    }
    save_file(weights, folder / "model.safetensors")
    return folder


def test_health_says_version_and_sizes(serve: Callable[..., Any]):
    url, _ = serve()
    status, health = call(url, "GET", "/health")
    assert status == 200
    expected = {"version": 0, "vocab_size": VOCAB, "max_length": 64, "engine": "hf", "dtype": "float32"}
    assert expected.items() <= health.items()


def test_weights_from_a_folder_or_a_body_change_answers_and_version(
    serve: Callable[..., Any], tmp_path: Path
):
    url, _ = serve()
    _, first = call(url, "POST", "/generate", ASKED)
    assert first["version"] == 0
    assert [len(group) for group in first["completions"]] == [2]
    new = write_weights(tmp_path / "new")
    assert call(url, "POST", "/weights", {"path": str(new), "version": 1}) == (200, {"version": 1})
    _, second = call(url, "POST", "/generate", ASKED)
    assert second["version"] == second["completions"][0][0]["version"] == 1
    assert second["completions"][0][0]["logprobs"] != first["completions"][0][0]["logprobs"]
    body = (write_weights(tmp_path / "old", 1.0) / "model.safetensors").read_bytes()
    assert call(url, "PUT", "/weights?version=2", body) == (200, {"version": 2})
    _, third = call(url, "POST", "/generate", ASKED)
    assert third["completions"][0][0]["logprobs"] == first["completions"][0][0]["logprobs"]
    assert third["version"] == 2


def test_other_weights_are_refused_and_the_old_ones_stay(serve: Callable[..., Any], tmp_path: Path):
    url, _ = serve()
    other = write_weights(tmp_path / "vocab", vocab_size=41)
    status, said = call(url, "POST", "/weights", {"path": str(other), "version": 1})
    assert status == 400
    assert "has shape [41, 32], the model's has [40, 32]" in said["error"]
    deep = (write_weights(tmp_path / "deep", num_hidden_layers=3) / "model.safetensors").read_bytes()
    status, said = call(url, "PUT", "/weights?version=1", deep)
    assert (status, "9 are foreign" in said["error"]) == (400, True)
    status, said = call(url, "PUT", "/weights?version=1", deep[:-10])
    assert (status, "its header says" in said["error"]) == (400, True)
    status, said = call(url, "PUT", "/weights?version=1", b"\x80\x04pickle?")
    assert (status, "is not a safetensors file" in said["error"]) == (400, True)
    assert call(url, "POST", "/weights", {"path": str(tmp_path / "nowhere"), "version": 1})[0] == 409
    assert call(url, "GET", "/health")[1]["version"] == 0


@pytest.mark.parametrize(
    "method, path, body, status, message",
    [
        ("GET", "/", b"", 404, "known: GET /health"),
        ("POST", "/generate", b"{", 400, "Invalid JSON"),
        ("POST", "/generate", {"requests": []}, 400, "sampling: Field required"),
        (
            "POST",
            "/generate",
            ASKED | {"requests": [{"prompt": [VOCAB], "seeds": [1]}]},
            400,
            "vocabulary of 40",
        ),
        ("POST", "/generate", ASKED | {"requests": [{"prompt": [5] * 61, "seeds": [1]}]}, 400, "model's 64"),
        ("PUT", "/weights", b"", 400, r"?version=N"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(
    serve: Callable[..., Any], method: str, path: str, body: Any, status: int, message: str
):
    url, _ = serve()
    given, said = call(url, method, path, body)
    assert (given, message in said["error"]) == (status, True), said


def test_a_token_is_asked_for_where_one_is_set(serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "secret-1")
    url, _ = serve()
    status, said = call(url, "POST", "/generate", ASKED)
    assert status == 401
    assert "secret-1" not in said["error"]
    assert call(url, "POST", "/shutdown", Authorization="Bearer other")[0] == 401
    assert call(url, "GET", "/health")[0] == 200
    assert call(url, "POST", "/generate", ASKED, Authorization="Bearer secret-1")[0] == 200


class Slow(HFBackend):
    """Waits in the middle of a generation until it is let on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, RolloutEngine())
        self.begun, self.go = threading.Event(), threading.Event()

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        self.begun.set()
        assert self.go.wait(20)
        return super().generate(requests, sampling)


def test_weights_wait_for_running_generation(serve: Callable[..., Any], folder: Path, tmp_path: Path):
    backend = Slow(folder)
    url, server = serve(backend=backend)
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(call(url, "POST", "/generate", ASKED)))
    asking.start()
    assert backend.begun.wait(20)
    new = write_weights(tmp_path / "new")
    loading = threading.Thread(target=call, args=(url, "POST", "/weights", {"path": str(new), "version": 1}))
    loading.start()
    loading.join(0.3)
    assert loading.is_alive()
    assert server.backend.version == 0
    backend.go.set()
    asking.join(20)
    loading.join(20)
    assert answers[0][1]["completions"][0][0]["version"] == 0
    assert server.backend.version == 1


def test_a_sleeping_server_wakes_for_work(serve: Callable[..., Any]):
    url, _ = serve()
    assert call(url, "POST", "/sleep")[0] == 200
    assert call(url, "GET", "/health")[1]["awake"] is False
    assert call(url, "POST", "/generate", ASKED)[0] == 200
    assert call(url, "GET", "/health")[1]["awake"] is True


def test_a_server_ends_when_it_is_told_to(serve: Callable[..., Any]):
    url, server = serve()
    assert call(url, "POST", "/shutdown")[0] == 200
    server._BaseServer__is_shut_down.wait(20)
    server.server_close()
    with pytest.raises(OSError):
        call(url, "GET", "/health")


def test_a_server_that_drains_answers_first(serve: Callable[..., Any], folder: Path):
    backend = Slow(folder)
    url, server = serve(backend=backend)
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(call(url, "POST", "/generate", ASKED)[0]))
    asking.start()
    assert backend.begun.wait(20)
    server.drain(0.2)
    ended = server._BaseServer__is_shut_down
    assert not ended.wait(1)
    backend.go.set()
    asking.join(20)
    assert answers == [200]
    assert ended.wait(20)
