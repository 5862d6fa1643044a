"""Storage that fails a part of the requests: retried where that helps, and never a wrong answer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from flaky import FAULTS, flaky

from compose_rl.launch import run_stage
from compose_rl.stages.spec import StageSpec
from compose_rl.store import open_store

pytestmark = pytest.mark.s3


def test_a_flaky_server_changes_no_answer(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "large").write_bytes(os.urandom(20 << 20))  # in several parts
    with flaky(os.environ["AWS_ENDPOINT_URL"], rate=0.3, slow_seconds=0.2) as (url, proxy):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        store = open_store(s3)
        for number in range(20):
            store.write(f"small/{number}", str(number).encode())
            assert store.read(f"small/{number}") == str(number).encode()
            assert store.create(f"once/{number}", b"first")
            assert not store.create(f"once/{number}", b"second")
        assert len(store.list("small")) == 20
        store.upload(source, "folder")
        store.download("folder", tmp_path / "target")
        assert (tmp_path / "target/large").read_bytes() == (source / "large").read_bytes()
    assert set(proxy.spoiled) == set(FAULTS), f"{proxy.spoiled} of {proxy.requests} requests"


def test_a_stage_runs_through_a_flaky_server(
    toy: StageSpec, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with flaky(os.environ["AWS_ENDPOINT_URL"], rate=0.05, slow_seconds=0.2) as (url, proxy):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        earlier = run_stage(toy, {"text": "0"}, {}, s3).manifest
        for number in range(1, 6):
            earlier = run_stage(toy, {"text": str(number)}, {"earlier": earlier}, s3).manifest
    assert proxy.spoiled, f"of {proxy.requests} requests"
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{proxy.target[0]}:{proxy.target[1]}")
    assert open_store(earlier.output("text").uri).read("text.txt") == b"012345"
