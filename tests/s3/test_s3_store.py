"""The S3 store against a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from compose_rl.errors import TransientError, UserError
from compose_rl.store import NotFound, open_store, split

pytestmark = pytest.mark.s3


def test_read_write_list_delete(s3: str) -> None:
    store = open_store(s3)
    with pytest.raises(NotFound, match=r"a/b\.txt: not found"):
        store.read("a/b.txt")
    store.write("a/b.txt", b"one")
    store.write("a/b.txt", b"two")
    store.write("ab/c.txt", b"three")
    assert store.read("a/b.txt") == b"two"
    assert [(entry.path, entry.size) for entry in store.list()] == [("a/b.txt", 3), ("ab/c.txt", 5)]
    assert [entry.path for entry in store.list("a")] == ["a/b.txt"]
    assert [entry.path for entry in store.list("a/b.txt")] == ["a/b.txt"]
    assert store.folders() == ["a", "ab"]
    # printf two | sha256sum
    assert store.sha256("a/b.txt").startswith("3fc4ccfe7458")
    store.delete("a")
    store.delete("a")
    assert [entry.path for entry in store.list()] == ["ab/c.txt"]
    found, name = split(f"{s3}/ab/c.txt")
    assert found.read(name) == b"three"


def test_the_tag_changes_with_the_content(s3: str) -> None:
    store = open_store(s3)
    tags = []
    for content in (b"one", b"two", b"one"):
        store.write("x", content)
        tags.append(store.list("x")[0].tag)
    assert tags[0] == tags[2] != tags[1]


def test_of_eight_writers_one_creates(s3: str) -> None:
    stores = [open_store(s3) for _ in range(8)]
    for store in stores:
        store.list()  # so that all clients exist before the race
    with ThreadPoolExecutor(8) as pool:
        for race in range(5):
            contents = [f"writer {n}".encode() for n in range(8)]
            created = list(
                pool.map(lambda n, r=race, c=contents: stores[n].create(f"race{r}", c[n]), range(8))
            )
            assert sum(created) == 1
            assert stores[0].read(f"race{race}") == contents[created.index(True)]


def test_a_folder_comes_back_as_it_was(s3: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "small").write_bytes(b"x")
    (source / "deep" / "er" / "empty").write_bytes(b"")
    # Past boto3's threshold of 8 MiB, so that it goes in several parts.
    (source / "deep" / "large").write_bytes(os.urandom(1 << 20) * 20)
    store = open_store(s3)
    store.upload(source, "folder")
    store.download("folder", tmp_path / "target")
    diff = subprocess.run(["diff", "-r", source, tmp_path / "target"], capture_output=True, text=True)
    assert (diff.returncode, diff.stdout) == (0, "")
    store.upload(source / "small", "file")
    store.download("file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"x"
    with pytest.raises(NotFound, match="nothing: not found"):
        store.download("nothing", tmp_path / "nothing")


def test_refusals_are_user_errors(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="bucket does not exist"):
        open_store("s3://other-bucket/x").list()
    with pytest.raises(UserError, match="the bucket is missing"):
        open_store("s3://")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UserError, match="check AWS_SECRET_ACCESS_KEY"):
        open_store(s3).read("x")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(UserError, match=r"No user exists.*check the URI, the credentials"):
        open_store(s3).write("x", b"")


def test_without_credentials_the_error_says_which_to_set(
    s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="no credentials; set AWS_ACCESS_KEY_ID"):
        open_store(s3).read("x")


def test_a_server_that_is_not_there_is_transient(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(TransientError, match="Could not connect"):
        open_store(s3).read("x")


def test_boto3_is_imported_only_when_it_is_needed() -> None:
    code = "import sys; from compose_rl.store import *; open_store('s3://b/p'); print('boto3' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
