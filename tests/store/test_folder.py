"""The folder store: atomic, first writer wins, errors with a remedy."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from compose_rl.errors import UserError
from compose_rl.store import NotFound, join, open_store, split


def test_read_write_list_delete(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    assert store.list() == []
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
    assert store.folders("nothing") == []
    # printf two | sha256sum
    assert store.sha256("a/b.txt").startswith("3fc4ccfe7458")
    store.delete("a")
    store.delete("a")
    assert [entry.path for entry in store.list()] == ["ab/c.txt"]


def test_a_folder_comes_back_as_it_was(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "file").write_bytes(b"x")
    store = open_store(str(tmp_path / "store"))
    store.upload(source, "folder")
    store.download("folder", tmp_path / "target")
    assert (tmp_path / "target" / "deep" / "file").read_bytes() == b"x"
    with pytest.raises(NotFound, match="nothing: not found"):
        store.download("nothing", tmp_path / "nothing")


def test_of_eight_writers_one_creates(tmp_path: Path) -> None:
    stores = [open_store(str(tmp_path)) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for race in range(20):
            created = list(
                pool.map(lambda n, r=race: stores[n].create(f"race{r}", f"{n}".encode()), range(8))
            )
            assert sum(created) == 1
            assert stores[0].read(f"race{race}") == str(created.index(True)).encode()
    assert len(list(tmp_path.iterdir())) == 20  # no temporary file is left


def test_create_leaves_what_is_there(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert store.create("x", b"first")
    assert not store.create("x", b"second")
    assert store.read("x") == b"first"


@pytest.mark.parametrize("method", ["write", "create"])
def test_a_writer_killed_at_any_moment_leaves_a_whole_file_or_none(tmp_path: Path, method: str) -> None:
    size = 1 << 20
    code = (
        "import sys; from compose_rl.store import open_store; store = open_store(sys.argv[1]); n = 0\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        f"    store.{method}(f'file{{n}}', bytes([n % 256]) * {size}); n += 1"
    )
    chance = random.Random(0)
    whole = 0
    for n in range(5):
        folder = tmp_path / str(n)
        process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0.0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        # Temporary files may be left; the store does not show them.
        for entry in open_store(str(folder)).list():
            content = (folder / entry.path).read_bytes()
            assert len(content) == size and len(set(content)) == 1
            whole += 1
    assert whole > 0


def test_no_permission_is_a_user_error(tmp_path: Path) -> None:
    if os.getuid() == 0:
        # root may write everywhere except where nobody may
        target = "/proc/compose-rl"
    else:
        tmp_path.chmod(0o500)
        target = str(tmp_path / "x")
    with pytest.raises(UserError, match=r"permission denied|not found"):
        open_store(target).write("file", b"")


def test_a_file_in_the_way_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="a part of the path is a file"):
        open_store(str(tmp_path / "file")).write("x", b"")


@pytest.mark.parametrize("uri", ["gs://bucket/x", "http://host/x"])
def test_other_schemes_are_refused(uri: str) -> None:
    with pytest.raises(UserError, match="is not supported; use a folder or s3://bucket/prefix"):
        open_store(uri)


def test_uris_are_joined_and_split(tmp_path: Path) -> None:
    assert join("s3://bucket/a/", "b", "/c/") == "s3://bucket/a/b/c"
    store, name = split(str(tmp_path / "a" / "b.json"))
    assert (store.uri, name) == (str(tmp_path / "a"), "b.json")
    assert split("b.json")[0].uri == str(Path.cwd())
    assert split("file:///a/b")[0].uri == "/a"
