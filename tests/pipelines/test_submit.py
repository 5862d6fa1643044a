"""What a run that failed on a server says: the step, and the line of its record."""

from pathlib import Path

import pytest

pytest.importorskip("kfp")

from compose_rl.errors import UserError
from compose_rl.store import open_store
from compose_rl.store.runs import Recorder
from pipelines.submit import reason


@pytest.fixture
def storage(tmp_path: Path) -> str:
    """The records of run ``r``: ``tokenize`` made its result, ``sft`` failed."""
    store = open_store(str(tmp_path))
    nothing: dict[str, dict[str, str]] = {"config": {}, "inputs": {}, "resources": {}}
    tokenize = Recorder(store, "r", step="tokenize", stage="tokenize")
    with tokenize.running(**nothing):
        tokenize.end("made", manifest="m")
    with pytest.raises(UserError), Recorder(store, "r", step="sft", stage="sft").running(**nothing):
        raise UserError("sft: lr=-1: not positive")
    return str(tmp_path)


@pytest.mark.parametrize("failed", [["sft"], []])
def test_a_step_that_failed_is_named_whether_or_not_the_server_knows(storage: str, failed: list[str]) -> None:
    assert reason(storage, "r", failed) == "sft: sft: lr=-1: not positive"


def test_a_step_that_was_killed_is_the_one_that_the_server_names(storage: str) -> None:
    assert reason(storage, "r", ["export", "sft"]) == "export: failed; its log in the UI says why"


def test_without_a_record_the_log_says_why(tmp_path: Path) -> None:
    assert reason(str(tmp_path), "r", []) == "the run: failed; its log in the UI says why"
    assert reason("s3://", "r", ["sft"]) == "sft: failed; its log in the UI says why"
