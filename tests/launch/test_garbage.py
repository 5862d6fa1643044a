"""What gc takes out of a storage, and what it never does."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from compose_rl.cli import main
from compose_rl.commands.gc import seconds
from compose_rl.errors import UserError
from compose_rl.launch import run_stage
from compose_rl.launch.garbage import garbage, still_garbage
from compose_rl.launch.sweep import Sweep
from compose_rl.stages.attempt import published
from compose_rl.stages.spec import StageSpec
from compose_rl.store.folder import FolderStore
from compose_rl.store.leases import Leases, kept

DAY = 86400.0
KEY, OTHER = "ab" * 32, "cd" * 32
OLD, NEW = "20260101T000000000-00000001", "20260102T000000000-00000002"


def attempt(root: Path, key: str, name: str, *, days: float, content: bytes = b"state") -> Path:
    """An attempt whose files were written so long ago."""
    file = root / "toy" / key / name / "checkpoints" / "state"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    then = time.time() - days * DAY
    os.utime(file, (then, then))
    return file


def found(root: Path, *, live: tuple[str, ...] = (), held: tuple[str, ...] = ()) -> list[str]:
    return [each.name for each in garbage(FolderStore(root), older_than=7 * DAY, live=live, held=held)]


def test_old_attempts_without_a_result_go_together(tmp_path: Path) -> None:
    attempt(tmp_path, KEY, OLD, days=9)
    attempt(tmp_path, KEY, NEW, days=8)
    assert found(tmp_path) == [OLD, NEW]


def test_an_attempt_that_a_recent_one_may_resume_from_stays(tmp_path: Path) -> None:
    attempt(tmp_path, KEY, OLD, days=30)
    attempt(tmp_path, KEY, NEW, days=1)
    attempt(tmp_path, OTHER, OLD, days=30)
    assert [each.key for each in garbage(FolderStore(tmp_path), older_than=7 * DAY, live=(), held=())] == [
        OTHER
    ]


def test_what_runs_or_is_waited_for_stays(tmp_path: Path) -> None:
    attempt(tmp_path, KEY, OLD, days=30)
    assert found(tmp_path, live=(f"toy/{KEY}/{OLD}",)) == []
    assert found(tmp_path, held=(KEY,)) == []
    assert found(tmp_path, held=(OTHER,)) == [OLD]


def test_a_result_stays_and_what_lies_beside_it_goes(toy: StageSpec, tmp_path: Path) -> None:
    manifest = run_stage(toy, {}, {}, str(tmp_path)).manifest
    for path in tmp_path.rglob("*"):
        os.utime(path, (0, 0))
    attempt(tmp_path, manifest.key, OLD, days=2)
    attempt(tmp_path, manifest.key, NEW, days=0.5)  # it may still run
    assert found(tmp_path) == [OLD]


def test_a_result_that_cannot_be_read_is_left_to_a_person(toy: StageSpec, tmp_path: Path) -> None:
    manifest = run_stage(toy, {}, {}, str(tmp_path)).manifest
    Path(manifest.uri).write_text('{"stage": "t')
    attempt(tmp_path, manifest.key, OLD, days=30)
    assert found(tmp_path) == []


def test_files_of_others_are_no_garbage(tmp_path: Path) -> None:
    for name in (f"toy/{KEY}/notes/x", f"toy/{KEY}/x", "toy/readme/x", f"{KEY}/{OLD}", "x", f"runs/{OLD}/x"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
        os.utime(file, (0, 0))
    assert found(tmp_path) == []


def test_an_attempt_is_kept_when_another_begins_meanwhile(tmp_path: Path) -> None:
    attempt(tmp_path, KEY, OLD, days=30)
    store = FolderStore(tmp_path)
    (old,) = these = list(garbage(store, older_than=7 * DAY, live=(), held=()))
    assert still_garbage(store, old, these)
    attempt(tmp_path, KEY, NEW, days=0)
    assert not still_garbage(store, old, these)


def test_leases_that_are_renewed_stay_and_guard_their_key(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    attempt(tmp_path, KEY, OLD, days=30)
    attempt(tmp_path, OTHER, OLD, days=30)
    Leases(store, OTHER).renew("gone.sft")
    stop, taken = threading.Event(), threading.Event()

    def hold() -> None:
        with kept(Leases(store, KEY), "here.sft", lease_minutes=0.001, say=print):
            taken.set()
            stop.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(30)
    try:
        sweep = Sweep(store, None, older_than=7 * DAY, dry_run=False)
        gone = [each.what for each in sweep.run(wait=0.5)]
    finally:
        stop.set()
        thread.join()
    assert gone == [
        f"leases/{OTHER}/gone.sft.json: not renewed, and no job is held by it",
        f"toy/{OTHER}/{OLD}: came to no result",
    ]
    assert (tmp_path / "toy" / KEY / OLD).exists()
    assert not (tmp_path / "toy" / OTHER / OLD).exists()
    assert Leases(store, OTHER).snapshot() == {}


@pytest.mark.parametrize("dry", [True, False])
def test_the_command_says_what_goes_and_how_much(
    toy: StageSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str], dry: bool
) -> None:
    manifest = run_stage(toy, {}, {}, str(tmp_path)).manifest
    attempt(tmp_path, KEY, OLD, days=30, content=b"x" * 2500)
    words = ["gc", "--storage", str(tmp_path), "--store-only", *(["--dry-run"] if dry else [])]
    with pytest.raises(SystemExit) as done:
        main(words)
    assert done.value.code == 0
    line, summary = capsys.readouterr().out.splitlines()
    would = "would be " if dry else ""
    assert line == f"{would}removed: toy/{KEY}/{OLD}: came to no result, 2.5 kB"
    assert summary.startswith(
        "gc: 0 jobs left, 0 jobs removed, 0 leases removed, 1 attempts removed, 2.5 kB freed"
    )
    assert ("dry run" in summary) == dry
    assert (tmp_path / "toy" / KEY / OLD).exists() == dry
    assert published(FolderStore(tmp_path), "toy", manifest.key) == manifest


@pytest.mark.parametrize("text, expected", [("7d", 604800), ("1.5h", 5400), ("30m", 1800), ("10s", 10)])
def test_times_have_a_unit(text: str, expected: float) -> None:
    assert seconds(text, "--wait") == expected


@pytest.mark.parametrize("text", ["7", "d", "-1d", "7 days", "", "1.2.3d"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"^--older-than {text}: not a time; write a number"):
        seconds(text, "--older-than")
