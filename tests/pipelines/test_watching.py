"""A run as a server tells of it: what is shown of it, and how it ended."""

import io
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("kfp")

from rich.console import Console

from compose_rl.errors import TransientError
from pipelines import watching
from pipelines.watching import Watch, follow

START = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = {"resolve": "resolve_model", "sft": "sft"}


def task(name: str, state: str | None, begun: int = 0, took: int = 0) -> Any:
    start = START + timedelta(seconds=begun)
    return SimpleNamespace(
        display_name=name, state=state, start_time=start, end_time=start + timedelta(seconds=took)
    )


def server(state: str | None, *tasks: Any, past: Sequence[str] = ()) -> Any:
    """A run as KFP's API gives it: with drivers and groups between the steps."""
    drivers = [task("sft-driver", "SUCCEEDED"), task("root(0)", "RUNNING")]
    return SimpleNamespace(
        state=state,
        run_details=SimpleNamespace(task_details=[*drivers, *tasks]),
        state_history=[SimpleNamespace(state=one) for one in past],
    )


def test_steps_are_seen_in_the_order_in_which_they_began() -> None:
    watch = Watch(NAMES)
    assert watch.update(server("RUNNING", task("sft", "FAILED", 9, 75), task("resolve", "RUNNING"))) == [
        "resolve_model",
        "sft",
    ]
    assert list(watch.steps) == ["resolve_model", "sft"]
    assert watch.steps["sft"] == ("FAILED", 75.0)
    assert watch.steps["resolve_model"][0] == "RUNNING"
    assert watch.failed == ["sft"]


def test_steps_that_were_not_reached_are_left_out() -> None:
    watch = Watch(NAMES)
    assert watch.update(server("FAILED", task("resolve", "FAILED"), task("sft", None))) == ["resolve_model"]


@pytest.mark.parametrize(
    ("past", "terminated"), [([], False), (["PENDING", "RUNNING"], False), (["RUNNING", "CANCELING"], True)]
)
def test_a_terminated_run_is_known_by_its_history(past: list[str], terminated: bool) -> None:
    watch = Watch(NAMES)
    watch.update(server("FAILED", past=past))
    assert (watch.state, watch.terminated) == ("FAILED", terminated)


def test_a_run_that_has_not_begun_has_no_steps() -> None:
    watch = Watch(NAMES)
    assert watch.update(SimpleNamespace(state=None, run_details=None, state_history=None)) == []
    assert (watch.state, watch.steps) == ("PENDING", {})


def test_a_line_for_each_change_until_the_run_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.0)
    done = task("resolve", "SUCCEEDED", 0, 3)
    answers: Iterator[Any] = iter(
        [
            server("RUNNING", task("resolve", "RUNNING")),
            server("RUNNING", task("resolve", "RUNNING")),
            TransientError("the server is away"),
            server("FAILED", done, task("sft", "FAILED", 4, 75)),
        ]
    )

    def get() -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    out, watch = io.StringIO(), Watch(NAMES)
    follow(get, watch, Console(file=out))
    assert out.getvalue().splitlines() == [
        "resolve_model: running",
        "resolve_model: succeeded (0:03)",
        "sft: failed (1:15)",
    ]
    assert (watch.state, watch.failed) == ("FAILED", ["sft"])


def test_a_server_that_stays_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(watching, "PATIENCE_SECONDS", 0.0)

    def get() -> Any:
        raise TransientError("no answer")

    with pytest.raises(TransientError, match="no answer"):
        follow(get, Watch(NAMES), Console(file=io.StringIO()))
