"""Pinning sources: keys follow content alone, errors say what to do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from compose_rl.errors import TransientError, UserError
from compose_rl.launch import run_stage
from compose_rl.stages.resolve import hub
from compose_rl.stages.resolve.spec import SPEC
from compose_rl.stages.sources import local_source
from compose_rl.store.manifest import Manifest

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _cache(own_cache: Path) -> None:
    pass


def resolve(tmp_path: Path, **config: Any) -> Manifest:
    return run_stage(SPEC, config, {}, str(tmp_path / "store")).manifest


def data_file(path: Path, text: str = '{"a": 1}\n') -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def model_folder(path: Path, *, weights: str = "model.safetensors") -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 300}))
    (path / weights).write_bytes(b"weights")
    return path


def test_the_same_bytes_at_another_place_have_the_same_key(tmp_path: Path) -> None:
    one = resolve(tmp_path, kind="dataset", uri=str(data_file(tmp_path / "one" / "a.jsonl")))
    two = resolve(tmp_path, kind="dataset", uri=str(data_file(tmp_path / "two" / "b.jsonl")))
    assert one.key == two.key
    # Each says where its own lies, so that a stage that reads the second never looks for the first.
    assert two.info["uri"] == str(tmp_path / "two" / "b.jsonl")
    assert one.uri != two.uri


@pytest.mark.parametrize(
    ("config", "scores"),
    [
        ({"id2label": {"0": "LABEL_0"}}, 1),
        ({}, 2),
        ({"num_labels": 3}, 3),
        ({"architectures": None, "model_type": "pairwise_rm"}, 1),
        ({"architectures": ["LlamaForCausalLM"]}, None),
    ],
)
def test_of_a_reward_model_it_is_known_how_many_scores_it_gives(
    tmp_path: Path, config: dict[str, object], scores: int | None
) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]} | config)
    )
    assert resolve(tmp_path, kind="model", uri=str(folder)).info.get("num_labels") == scores


def test_changed_content_changes_the_key(tmp_path: Path) -> None:
    path = data_file(tmp_path / "a.jsonl")
    before = resolve(tmp_path, kind="dataset", uri=str(path)).key
    path.write_text('{"a": 2}\n')
    assert resolve(tmp_path, kind="dataset", uri=str(path)).key != before


@pytest.mark.parametrize("change", [{"split": "train"}, {"uri": "renamed.csv"}])
def test_split_and_format_are_part_of_the_key(tmp_path: Path, change: dict[str, str]) -> None:
    data_file(tmp_path / "a.jsonl")
    data_file(tmp_path / "renamed.csv")
    config = {"kind": "dataset", "uri": "a.jsonl"}
    keys = {
        resolve(tmp_path, **{**document, "uri": str(tmp_path / document["uri"])}).key
        for document in (config, {**config, **change})
    }
    assert len(keys) == 2


def test_an_unchanged_source_gives_the_recorded_manifest(tmp_path: Path) -> None:
    path = data_file(tmp_path / "a.jsonl")
    assert resolve(tmp_path, kind="dataset", uri=str(path)) == resolve(
        tmp_path, kind="dataset", uri=str(path)
    )


def test_a_folder_of_data_is_all_its_data_files(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for name in ("train/1.jsonl", "train/2.jsonl.gz", "README.md", ".git/x.json"):
        data_file(folder / name)
    manifest = resolve(tmp_path, kind="dataset", uri=str(folder))
    assert [file["path"] for file in manifest.info["files"]] == ["train/1.jsonl", "train/2.jsonl.gz"]
    assert local_source(manifest, tmp_path / "cache") == folder


def test_a_model_says_what_later_stages_check(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    info = resolve(tmp_path, kind="model", uri=str(folder)).info
    assert (info["model_type"], info["vocab_size"]) == ("llama", 300)
    assert [file["path"] for file in info["files"]] == ["config.json", "model.safetensors"]


def test_a_model_of_pickles_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", weights="pytorch_model.bin")
    with pytest.raises(UserError, match=r"there only as \.bin.*convert them to safetensors"):
        resolve(tmp_path, kind="model", uri=str(folder))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "dataset", "uri": "nowhere/x.jsonl"}, r"nowhere/x\.jsonl.*no such file or folder"),
        ({"kind": "dataset", "uri": "ftp://host/x"}, "scheme 'ftp' is not supported"),
        ({"kind": "dataset", "uri": "/nowhere/at/all"}, "no such file or folder"),
        ({"kind": "model", "uri": "x", "split": "train"}, "split='train': a model has none"),
        ({"kind": "data", "uri": "x"}, "kind='data'"),
        ({"kind": "dataset", "url": "x"}, "unknown key 'url'; did you mean 'uri'?"),
    ],
)
def test_an_unreadable_uri_is_one_clear_line(tmp_path: Path, config: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve(tmp_path, **config)
    assert "\n" not in str(caught.value)


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    data_file(tmp_path / "data" / "README.md")
    with pytest.raises(UserError, match="no data files there"):
        resolve(tmp_path, kind="dataset", uri=str(tmp_path / "data"))


def test_a_source_that_changed_since_it_was_pinned_is_refused(tmp_path: Path) -> None:
    path = data_file(tmp_path / "a.jsonl")
    manifest = resolve(tmp_path, kind="dataset", uri=str(path))
    assert local_source(manifest, tmp_path / "cache") == path
    path.write_text('{"a": 2}\n')
    with pytest.raises(UserError, match=r"a\.jsonl: SHA-256 is .*run the stage 'resolve' again"):
        local_source(manifest, tmp_path / "cache")


class Hub(BaseHTTPRequestHandler):
    """The two answers of the hub that pinning needs, and its refusals."""

    failures = 0
    tokens: list[str | None] = []  # noqa: RUF012

    def do_GET(self) -> None:
        type(self).tokens.append(self.headers["Authorization"])
        if type(self).failures:
            type(self).failures -= 1
            self._answer(503, {})
            return
        answers: dict[str, tuple[int, Any]] = {
            "/api/models/org/tiny/revision/main": (
                200,
                {"sha": SHA, "siblings": [{"rfilename": "config.json"}, {"rfilename": "m.safetensors"}]},
            ),
            f"/org/tiny/resolve/{SHA}/config.json": (200, {"model_type": "llama", "vocab_size": 7}),
            "/api/datasets/org/data/revision/v1%2Fx": (200, {"sha": SHA, "siblings": []}),
            "/api/models/org/gated/revision/main": (401, {}),
        }
        self._answer(*answers.get(self.path, (404, {})))

    def _answer(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def small_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(hub, "FIRST_WAIT_SECONDS", 0.01)
    Hub.failures, Hub.tokens = 0, []
    yield Hub
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hub_id_is_pinned_to_its_commit(tmp_path: Path, small_hub: type[Hub]) -> None:
    info = resolve(tmp_path, kind="model", uri="org/tiny").info
    assert info == {
        "kind": "model", "uri": "org/tiny", "revision": SHA, "split": None, "subset": None,
        "model_type": "llama", "vocab_size": 7,
    }  # fmt: skip


def test_revision_split_and_subset_of_a_hub_dataset(tmp_path: Path, small_hub: type[Hub]) -> None:
    config = {"kind": "dataset", "uri": "org/data", "revision": "v1/x"}
    keys = [
        resolve(tmp_path, **config, **more).key
        for more in ({}, {"split": "train"}, {"split": "train", "subset": "main"})
    ]
    assert len(set(keys)) == 3


def test_the_hub_is_asked_again_and_with_the_token(
    tmp_path: Path, small_hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    small_hub.failures = 2
    manifest = resolve(tmp_path, kind="model", uri="org/tiny")
    assert manifest.info["revision"] == SHA
    assert set(small_hub.tokens) == {"Bearer secret"}
    assert "secret" not in manifest.to_json()


def test_what_the_hub_refuses_is_a_user_error(tmp_path: Path, small_hub: type[Hub]) -> None:
    with pytest.raises(UserError, match=r"model 'org/gated'.*set HF_TOKEN"):
        resolve(tmp_path, kind="model", uri="org/gated")
    with pytest.raises(UserError, match=r"model 'org/nothing'.*neither a local path nor on the hub"):
        resolve(tmp_path, kind="model", uri="org/nothing")


def test_a_hub_that_stays_down_is_transient(tmp_path: Path, small_hub: type[Hub]) -> None:
    small_hub.failures = 100
    with pytest.raises(TransientError, match=r"the hub does not answer.*status 503"):
        resolve(tmp_path, kind="model", uri="org/tiny")
