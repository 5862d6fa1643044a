"""Records of a run's steps."""

from pathlib import Path

import pytest

from compose_rl.errors import StageFailed, UserError
from compose_rl.store import Store, open_store
from compose_rl.store.runs import Recorder, read_record, read_run

ASKED = {"config": {"lr": 0.1}, "inputs": {"model": "/s/m"}, "resources": {"nodes": 2}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def test_a_record_says_what_was_asked_while_the_step_runs_and_what_came_out(store: Store) -> None:
    recorder = Recorder(store, "r1", step="train", stage="sft")
    with recorder.running(**ASKED):
        during = read_record(store, "r1", "train")
        recorder.end("made", manifest="/s/sft/1/manifest.json")
    after = read_record(store, "r1", "train")
    assert (during.state, during.manifest) == ("running", None)
    assert (after.state, after.manifest, after.seconds > 0) == ("made", "/s/sft/1/manifest.json", True)
    assert {name: getattr(after, name) for name in ASKED} == ASKED
    assert after.started == during.started


def test_a_failure_is_recorded_and_raised(store: Store) -> None:
    recorder = Recorder(store, "r1", step="train", stage="sft")
    with pytest.raises(StageFailed), recorder.running(**ASKED):
        raise StageFailed("sft: out of memory")
    assert read_record(store, "r1", "train").message == "sft: out of memory"
    assert read_record(store, "r1", "train").state == "failed"


def test_a_run_is_its_steps_in_the_order_in_which_they_began(store: Store) -> None:
    second, first = (Recorder(store, "r1", step=step, stage="sft") for step in ("b", "a"))
    first._record = first._record.model_copy(update={"started": "2020"})
    for recorder in (second, first):
        recorder.end("made")
    Recorder(store, "r2", step="c", stage="sft").end("made")
    assert [record.step for record in read_run(store, "r1")] == ["a", "b"]


def test_a_step_that_the_run_has_not_is_named(store: Store) -> None:
    Recorder(store, "r1", step="train", stage="sft").end("made")
    with pytest.raises(UserError, match=r"run r1: no record of step 'trian' in .*; its steps: train"):
        read_record(store, "r1", "trian")
    with pytest.raises(UserError, match=r"run r2: no record .*; check the run and the storage"):
        read_record(store, "r2", "train")
