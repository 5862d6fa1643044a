"""When a job leaves before its work is done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from compose_rl.errors import EXIT_TRANSIENT, TransientError
from compose_rl.launch.attempts import begin, job_uri
from compose_rl.stages.attempt import FAILURE_NAME, JobFile
from compose_rl.stages.spec import StageSpec
from compose_rl.stages.watch import Leave, watch_leases
from compose_rl.store import open_store, split
from compose_rl.store.folder import FolderStore
from compose_rl.store.leases import Leases

MINUTES = 0.01  # 0.6 s


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def test_a_stage_that_does_not_end_by_itself_is_overdue_at_once() -> None:
    leave = Leave()
    assert not leave.overdue
    leave.request("first", 60)
    leave.request("second", 60)
    assert (leave.reason, leave.overdue) == ("first", True)


def test_a_stage_that_ends_by_itself_has_the_time_that_the_request_gives() -> None:
    patient, hasty = Leave(), Leave()
    patient.request("r", 60)
    hasty.request("r", -1)
    with patient.ends_itself(), hasty.ends_itself():
        assert (patient.overdue, hasty.overdue) == (False, True)
        with hasty.ends_itself(saving=True):
            assert not hasty.overdue
        assert hasty.overdue
    assert patient.overdue


def test_a_job_leaves_when_its_lease_is_renewed_no_more(store: FolderStore) -> None:
    leave, leases, launcher = Leave(), Leases(store, "key"), Leases(store, "key")
    gone = threading.Event()

    def renew() -> None:
        while not gone.wait(0.05):
            launcher.renew("one")

    thread = threading.Thread(target=renew)
    thread.start()
    with watch_leases(leases, MINUTES, leave):
        time.sleep(4 * MINUTES * 60)
        held = not leave.wanted
        gone.set()
        thread.join()
        wait_for(lambda: leave.wanted)
    assert held
    assert leave.reason == "no launcher holds this job any more (no lease was renewed for 0.01 minutes)"


def test_a_job_leaves_when_there_is_no_lease_and_stays_when_it_has_none_to_watch(store: FolderStore) -> None:
    leave, unwatched = Leave(), Leave()
    with (
        watch_leases(Leases(store, "key"), None, unwatched),
        watch_leases(Leases(store, "key"), MINUTES, leave),
    ):
        wait_for(lambda: leave.wanted)
    assert not unwatched.wanted


class Away(Leases):
    """Leases in a storage that can be made unreadable."""

    away = False

    def snapshot(self) -> dict[str, bytes]:
        if self.away:
            raise TransientError("storage: connection refused")
        return super().snapshot()


def test_storage_that_is_away_is_no_launcher_that_is_gone(store: FolderStore) -> None:
    leave, leases, launcher = Leave(), Away(store, "key"), Leases(store, "key")
    minutes = 3 * MINUTES
    launcher.renew("one")
    with watch_leases(leases, minutes, leave):
        time.sleep(minutes * 20)
        leases.away = True
        time.sleep(minutes * 80)
        leases.away = False
        time.sleep(minutes * 20)  # the launcher comes back a little after the storage
        launcher.renew("one")
        time.sleep(minutes * 20)
        assert not leave.wanted
        wait_for(lambda: leave.wanted)
    assert "no launcher holds this job" in leave.reason


def test_storage_that_stays_away_ends_the_job(store: FolderStore) -> None:
    leave, leases = Leave(), Away(store, "key")
    leases.away = True
    with watch_leases(leases, MINUTES / 10, leave):
        wait_for(lambda: leave.wanted)
    assert leave.reason == "the leases cannot be read (storage: connection refused)"


def started(toy: StageSpec, tmp_path: Path, lease_minutes: float | None = None) -> tuple[JobFile, Path]:
    """A job of the toy stage that would take minutes."""
    runs = tmp_path / "runs"
    config = {"pause": 300, "runs": str(runs)}
    key = toy.key(toy.parse(config, {}), {})
    storage = str(tmp_path / "store")
    job = JobFile(
        stage="toy", key=key, storage=storage, config=config, inputs={}, lease_minutes=lease_minutes
    )
    return begin(open_store(storage), job), runs


@pytest.mark.parametrize("why", ["signal", "lease"])
def test_a_stage_that_saves_no_state_ends_at_once_and_says_why(
    toy: StageSpec, tmp_path: Path, why: str
) -> None:
    job, runs = started(toy, tmp_path, MINUTES if why == "lease" else None)
    command = [sys.executable, "-m", "toy_stage", "--job", job_uri(job)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(runs.exists)
    if why == "signal":
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    reasons = {"signal": "told to stop (SIGTERM)", "lease": "no launcher holds this job any more"}
    assert process.returncode == EXIT_TRANSIENT
    attempt, _ = split(job_uri(job))
    failure = json.loads(attempt.read(FAILURE_NAME))
    assert failure["exit_code"] == EXIT_TRANSIENT
    assert failure["message"].startswith(reasons[why])
    assert f"error: {reasons[why]}" in err
    assert {entry.path for entry in attempt.list()} == {"job.json", FAILURE_NAME}


FORKING = """
import multiprocessing, os, signal, sys, threading, time
from compose_rl.stages.watch import LEAVE, watch_signals

ended = threading.Event()
with watch_signals(LEAVE, ended.set):
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    child.join(20)
    time.sleep(0.5)
    print(child.exitcode, LEAVE.wanted)
    os.kill(os.getpid(), signal.SIGUSR1)
    print(ended.wait(20), LEAVE.reason)
"""


def test_a_forked_worker_answers_for_itself() -> None:
    """Data loaders end their workers by SIGTERM, which is not meant for the job."""
    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [f"{-signal.SIGTERM} False", "True told to stop (SIGTERM)"]


def test_under_torchrun_sigterm_is_torchruns() -> None:
    """It ends what is left after a failure, at once and without a reason of its own."""
    environ = os.environ | {"TORCHELASTIC_RUN_ID": "r"}
    done = subprocess.run(
        [sys.executable, "-c", FORKING.replace("SIGUSR1", "SIGTERM")], env=environ, capture_output=True
    )
    assert done.returncode == -signal.SIGTERM
