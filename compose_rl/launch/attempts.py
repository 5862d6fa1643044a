"""Attempts at a key: each has a folder of its own, found by its job file."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from compose_rl.stages.attempt import FAILURE_NAME, JOB_NAME, Failure, JobFile
from compose_rl.store import NotFound, Store, join

__all__ = ["begin", "job_uri", "new_attempt", "recorded_failure"]


def new_attempt() -> str:
    """A unique name that sorts by time: UTC to the millisecond, then chance."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03}-{secrets.token_hex(4)}"


def begin(store: Store, job: JobFile) -> JobFile:
    """Give the job an attempt of its own and write its file."""
    job = job.model_copy(update={"attempt": new_attempt()})
    store.write(f"{job.folder}/{JOB_NAME}", job.model_dump_json(indent=2).encode())
    return job


def job_uri(job: JobFile) -> str:
    """Where the job's file lies."""
    return join(job.storage, job.folder, JOB_NAME)


def recorded_failure(store: Store, job: JobFile) -> Failure | None:
    """What the attempt itself said of its end; None where it could not."""
    try:
        return Failure.model_validate_json(store.read(f"{job.folder}/{FAILURE_NAME}"))
    except NotFound:
        return None
