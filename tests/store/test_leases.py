"""Leases: what a watcher sees of holders that come, renew, fail and go."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from compose_rl.errors import TransientError, UserError
from compose_rl.store.folder import FolderStore
from compose_rl.store.leases import Leases, kept, renewal_seconds

KEY = "ab" * 32
SHORT = 0.001
"""Minutes: renewed every 6 ms."""


class Failing(FolderStore):
    """A folder whose writes fail while ``error`` is set."""

    error: Exception | None = None
    refused = 0

    def write(self, path: str, data: bytes) -> None:
        if self.error is not None:
            self.refused += 1
            raise self.error
        super().write(path, data)


def wait_for(condition) -> None:
    for _ in range(2000):
        if condition():
            return
        threading.Event().wait(0.005)
    raise AssertionError("did not happen")


def test_every_renewal_changes_the_content(tmp_path: Path) -> None:
    leases = Leases(FolderStore(tmp_path), KEY)
    seen = []
    for _ in range(3):
        leases.renew("w.step")
        seen.append(leases.snapshot()["w.step"])
    assert len(set(seen)) == 3


def test_a_holder_that_starts_again_changes_the_content_too(tmp_path: Path) -> None:
    seen = set()
    for _ in range(2):
        leases = Leases(FolderStore(tmp_path), KEY)
        leases.renew("w.step")
        seen.add(leases.snapshot()["w.step"])
    assert len(seen) == 2


def test_leases_of_several_holders_and_of_other_keys_stay_apart(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    mine, other = Leases(store, KEY), Leases(store, "cd" * 32)
    assert mine.snapshot() == {}
    mine.renew("w1.step")
    mine.renew("w2.step")
    other.renew("w3.step")
    assert set(mine.snapshot()) == {"w1.step", "w2.step"}
    mine.drop("w1.step")
    mine.drop("w1.step")
    assert set(mine.snapshot()) == {"w2.step"}


def test_a_lease_lies_where_the_documentation_says(tmp_path: Path) -> None:
    Leases(FolderStore(tmp_path), KEY).renew("w.step")
    assert (tmp_path / "leases" / KEY / "w.step.json").is_file()


def test_a_kept_lease_is_renewed_and_dropped(tmp_path: Path) -> None:
    leases = Leases(FolderStore(tmp_path), KEY)
    with kept(leases, "w.step", lease_minutes=SHORT, say=pytest.fail):
        first = leases.snapshot()["w.step"]
        wait_for(lambda: leases.snapshot()["w.step"] != first)
    assert leases.snapshot() == {}


def test_a_kept_lease_is_dropped_when_its_body_fails(tmp_path: Path) -> None:
    leases = Leases(FolderStore(tmp_path), KEY)
    with pytest.raises(ZeroDivisionError), kept(leases, "w", lease_minutes=5, say=pytest.fail):
        raise ZeroDivisionError
    assert leases.snapshot() == {}


def test_a_storage_that_fails_for_a_while_is_told_once_and_tried_again(tmp_path: Path) -> None:
    store = Failing(tmp_path)
    leases = Leases(store, KEY)
    told: list[str] = []
    with kept(leases, "w", lease_minutes=SHORT, say=told.append):
        before = leases.snapshot()["w"]
        store.error = UserError("access denied")
        wait_for(lambda: store.refused >= 3)
        assert told == ["the lease cannot be renewed, trying on: access denied"]
        store.error = None
        wait_for(lambda: leases.snapshot()["w"] != before)


def test_the_first_write_decides_between_refusal_and_trouble_that_passes(tmp_path: Path) -> None:
    store = Failing(tmp_path)
    leases = Leases(store, KEY)
    store.error = UserError("read-only")
    with pytest.raises(UserError, match="read-only"), kept(leases, "w", lease_minutes=5, say=pytest.fail):
        pytest.fail("no job may start")
    store.error = TransientError("slow down")
    told: list[str] = []
    with kept(leases, "w", lease_minutes=SHORT, say=told.append):
        store.error = None
        wait_for(lambda: "w" in leases.snapshot())


@pytest.mark.parametrize("minutes, seconds", [(5, 30), (1, 6), (60, 30), (0.05, 0.3)])
def test_a_lease_is_renewed_ten_times_before_it_runs_out(minutes: float, seconds: float) -> None:
    assert renewal_seconds(minutes) == pytest.approx(seconds)
