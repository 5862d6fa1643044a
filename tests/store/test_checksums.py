"""Checksums are read once and noticed when they no longer hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compose_rl.errors import UserError
from compose_rl.store import checksums
from compose_rl.store.checksums import cache_root, describe, file_sha256, verify


@pytest.fixture(autouse=True)
def _cache(own_cache: Path) -> None:
    pass


def old(path: Path, text: str) -> Path:
    """A file last changed some time ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, ns=(10**18, 10**18))
    return path


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    path = old(tmp_path / "file", "abc")
    before = file_sha256(path)
    # printf abc | sha256sum
    assert before.startswith("ba7816bf8f01")
    path.write_text("xyz")
    os.utime(path, ns=(10**18, 10**18))  # the same size and time: taken for the same file
    assert file_sha256(path) == before
    os.utime(path)
    assert file_sha256(path) != before


def test_a_file_just_written_is_not_remembered(tmp_path: Path, own_cache: Path) -> None:
    path = tmp_path / "file"
    path.write_text("abc")
    file_sha256(path)
    assert not list(own_cache.glob("sha256/*/*"))


def test_a_damaged_note_is_ignored(tmp_path: Path, own_cache: Path) -> None:
    path = old(tmp_path / "file", "abc")
    before = file_sha256(path)
    (note,) = own_cache.glob("sha256/*/*")
    note.write_text("{")
    assert file_sha256(path) == before


def test_a_folder_is_described_and_verified(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    old(folder / "b" / "two", "2")
    old(folder / "one", "1")
    files = describe(folder)
    assert [file.path for file in files] == ["b/two", "one"]
    verify(folder, files, "run it again")
    old(folder / "one", "11")
    with pytest.raises(UserError, match=r"one: has 2 bytes, 1 expected .*; run it again"):
        verify(folder, files, "run it again")


def test_the_cache_lies_where_it_is_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMPOSE_RL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "compose-rl"
    # A home that can't be written, as in containers.
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    monkeypatch.setattr(checksums.tempfile, "tempdir", str(tmp_path))
    assert cache_root() == tmp_path / f"compose-rl-{os.getuid()}"
    monkeypatch.setenv("COMPOSE_RL_CACHE", "/proc/nowhere")
    with pytest.raises(UserError, match="COMPOSE_RL_CACHE=/proc/nowhere: cannot be written"):
        cache_root()
