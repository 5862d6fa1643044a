"""Whole stages on S3 storage."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compose_rl.errors import UserError
from compose_rl.launch import run_stage
from compose_rl.stages.resolve.spec import SPEC as RESOLVE
from compose_rl.stages.sources import local_source
from compose_rl.stages.spec import StageSpec
from compose_rl.store import open_store
from compose_rl.store.checksums import cache_root
from compose_rl.store.manifest import Manifest

pytestmark = pytest.mark.s3


def test_a_stage_runs_reads_and_is_reused(toy: StageSpec, s3: str, tmp_path: Path) -> None:
    first = run_stage(toy, {"text": "abc"}, {}, s3).manifest
    second = run_stage(toy, {"text": "def"}, {"earlier": first}, s3).manifest
    store = open_store(s3)
    base = f"toy/{second.key}"
    assert [entry.path for entry in store.list(base)] == [
        f"{base}/{second.attempt}/job.json",
        f"{base}/{second.attempt}/text/text.txt",
        f"{base}/manifest.json",
    ]
    assert store.read(f"{base}/{second.attempt}/text/text.txt") == b"abcdef"
    assert Manifest.from_json(store.read(f"{base}/manifest.json"), "") == second
    assert run_stage(toy, {"text": "abc"}, {}, s3).cached
    assert not (cache_root() / "work" / base / second.attempt).exists()


def test_a_damaged_download_is_fetched_again(toy: StageSpec, s3: str) -> None:
    first = run_stage(toy, {"text": "abc"}, {}, s3).manifest
    run_stage(toy, {"text": "x"}, {"earlier": first}, s3)
    (copy,) = (cache_root() / "inputs").rglob("text.txt")
    copy.write_text("ab")
    result = run_stage(toy, {"text": "y"}, {"earlier": first}, s3).manifest
    assert open_store(result.output("text").uri).read("text.txt") == b"abcy"


def test_a_damaged_object_is_named(toy: StageSpec, s3: str) -> None:
    first = run_stage(toy, {"text": "abc"}, {}, s3).manifest
    open_store(first.output("text").uri).write("text.txt", b"ab")
    with pytest.raises(UserError, match=r"text\.txt: has 2 bytes, 3 expected.*run stage 'toy' again"):
        run_stage(toy, {"text": "x"}, {"earlier": first}, s3)


def test_a_dataset_in_s3_is_pinned_read_once_and_fetched(
    s3: str, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_store(f"{s3}/raw")
    source.write("data/a.jsonl", b"{}\n")
    source.write("data/deep/b.jsonl", b"[]\n")
    source.write("data/notes.txt", b"")
    config = {"kind": "dataset", "uri": f"{s3}/raw/data"}
    pinned = run_stage(RESOLVE, config, {}, f"{s3}/store").manifest
    assert [file["path"] for file in pinned.info["files"]] == ["a.jsonl", "deep/b.jsonl"]
    folder = local_source(pinned, own_cache)
    assert (folder / "deep" / "b.jsonl").read_bytes() == b"[]\n"

    local = tmp_path / "data"
    shutil.copytree(folder, local)
    assert (
        run_stage(RESOLVE, {**config, "uri": str(local)}, {}, str(tmp_path / "s")).manifest.key == pinned.key
    )

    def read_again(self: object, path: str) -> str:
        raise AssertionError(f"{path} was read again although nothing changed")

    monkeypatch.setattr(type(source), "sha256", read_again)
    assert run_stage(RESOLVE, config, {}, f"{s3}/store").manifest == pinned


def test_a_single_object_is_a_dataset(s3: str, own_cache: Path) -> None:
    open_store(s3).write("x.jsonl", b"{}\n")
    pinned = run_stage(RESOLVE, {"kind": "dataset", "uri": f"{s3}/x.jsonl"}, {}, f"{s3}/store").manifest
    path = local_source(pinned, own_cache)
    assert (path.name, path.read_bytes()) == ("x.jsonl", b"{}\n")


def test_nothing_at_an_s3_uri_is_a_user_error(s3: str, own_cache: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.jsonl.*nothing there"):
        run_stage(RESOLVE, {"kind": "dataset", "uri": f"{s3}/nothing.jsonl"}, {}, f"{s3}/store")


def test_a_launcher_killed_while_it_uploads_leaves_no_manifest_or_a_whole_one(
    toy: StageSpec, s3: str
) -> None:
    code = (
        "import sys; from toy_stage import SPEC; from compose_rl.launch import run_stage;"
        "run_stage(SPEC, {'text': sys.argv[1], 'times': 30_000_000}, {}, sys.argv[2])"
    )
    chance = random.Random(0)
    store = open_store(s3)
    for n in range(4):
        process = subprocess.Popen([sys.executable, "-c", code, str(n), s3], stderr=subprocess.DEVNULL)
        # From the moment the job exists: what follows is hashing, upload and manifest.
        while process.poll() is None and sum(entry.path.endswith("job.json") for entry in store.list()) <= n:
            time.sleep(0.05)
        time.sleep(chance.uniform(0.0, 1.5))
        process.kill()
        process.wait()
    for entry in store.list():
        if entry.path.endswith("manifest.json"):
            manifest = Manifest.from_json(store.read(entry.path), entry.path)
            (file,) = manifest.output("text").files
            (stored,) = open_store(manifest.output("text").uri).list()
            assert (stored.path, stored.size) == (file.path, file.size)
    assert run_stage(toy, {"text": "0"}, {}, s3).manifest.metrics == {"length": 1}
