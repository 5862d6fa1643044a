"""What the steps of a pipeline's run leave behind: ``<storage>/runs/<run>/<step>.json``, small records.

A result is found by its content and knows nothing of runs; a record says which result a step of a run had, or
why it had none, and with what it was asked for, so that a run can be reported and a step repeated.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field

from compose_rl.config.schema import Config, parse
from compose_rl.errors import StageFailed, TransientError, UserError
from compose_rl.store.base import NotFound, Store

__all__ = ["Recorder", "State", "StepRecord", "read_record", "read_run"]

State = Literal["running", "made", "reused", "checked", "absent", "failed"]
_FOLDER = "runs"


class StepRecord(Config):
    """A step of a run."""

    step: str
    stage: str
    state: State = "running"
    """``checked``: a source, looked at anew. ``running`` when a run has ended: the step was killed."""
    started: str
    """UTC, ISO 8601."""
    seconds: float = 0.0
    manifest: str | None = None
    """URI of the result."""
    message: str = ""
    """Why it failed, or why it is absent."""
    config: dict[str, Any] = Field(default_factory=dict)
    """The stage's configuration, as the run gave it."""
    inputs: dict[str, str] = Field(default_factory=dict)
    """URIs of the inputs' manifests."""
    resources: dict[str, Any] = Field(default_factory=dict)
    """What is not a default of :class:`compose_rl.config.resources.Resources`."""


class Recorder:
    """Keeps the record of one step up to date."""

    def __init__(self, store: Store, run: str, *, step: str, stage: str) -> None:
        self._store, self._place = store, f"{_FOLDER}/{run}/{step}.json"
        self._begun = time.monotonic()
        started = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._record = StepRecord(step=step, stage=stage, started=started)

    @contextlib.contextmanager
    def running(
        self, *, config: Mapping[str, Any], inputs: Mapping[str, str], resources: Mapping[str, Any]
    ) -> Generator[None]:
        """Say that the step runs, with what it was asked for, and why it failed where it does."""
        asked = {"config": dict(config), "inputs": dict(inputs), "resources": dict(resources)}
        self._record = self._record.model_copy(update=asked)
        self._write()
        try:
            yield
        except (UserError, TransientError, StageFailed) as error:
            # What failed is the error; that the store may be away as well is not.
            with contextlib.suppress(UserError, TransientError):
                self.end("failed", message=str(error))
            raise

    def end(self, state: State, *, manifest: str | None = None, message: str = "") -> None:
        """Say how the step ended."""
        seconds = round(time.monotonic() - self._begun, 3)
        ended = {"state": state, "seconds": seconds, "manifest": manifest, "message": message}
        self._record = self._record.model_copy(update=ended)
        self._write()

    def _write(self) -> None:
        self._store.write(self._place, self._record.model_dump_json(indent=2).encode())


def read_record(store: Store, run: str, step: str) -> StepRecord:
    """The record of a step.

    Raises:
        UserError: the run has no such step, or it was never reached.
    """
    name = f"{_FOLDER}/{run}/{step}.json"
    try:
        return _parsed(store.read(name), name)
    except NotFound:
        known = [record.step for record in read_run(store, run)]
        remedy = f"its steps: {', '.join(known)}" if known else "check the run and the storage"
        raise UserError(f"run {run}: no record of step '{step}' in {store.uri}; {remedy}") from None


def read_run(store: Store, run: str) -> list[StepRecord]:
    """The records of a run, by the time at which their steps began; none for a run that is not there."""
    entries = store.list(f"{_FOLDER}/{run}")
    records = [_parsed(store.read(entry.path), entry.path) for entry in entries]
    return sorted(records, key=lambda record: (record.started, record.step))


def _parsed(data: bytes, name: str) -> StepRecord:
    return parse(StepRecord, json.loads(data), name)
