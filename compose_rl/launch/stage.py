"""The launching side of a stage: check, compute the key, answer from the store or start an attempt."""

from __future__ import annotations

import importlib
import secrets
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from compose_rl.errors import EXIT_TRANSIENT, EXIT_USER, StageFailed, TransientError, UserError
from compose_rl.launch.backend import Backend, JobRequest
from compose_rl.launch.process import ProcessBackend
from compose_rl.stages.attempt import FAILURE_NAME, JOB_NAME, Failure, JobFile, published
from compose_rl.stages.spec import StageSpec
from compose_rl.store import NotFound, Store, join, open_store
from compose_rl.store.manifest import Manifest

__all__ = ["Outcome", "new_attempt", "run_stage"]


@dataclass(frozen=True)
class Outcome:
    """A stage's result."""

    manifest: Manifest
    cached: bool
    """It was there already; nothing ran."""


def new_attempt() -> str:
    """A unique name that sorts by time: UTC to the millisecond, then chance."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03}-{secrets.token_hex(4)}"


def run_stage(
    spec: StageSpec,
    document: Mapping[str, Any],
    inputs: Mapping[str, Manifest],
    storage: str,
    *,
    procs: int = 1,
    backend: Backend | None = None,
) -> Outcome:
    """The stage's result: from the store if it is there, else from an attempt started now.

    Args:
        document: the configuration, unparsed.
        inputs: manifests by slot.
        storage: folder or ``s3://bucket/prefix``.
        procs: processes of the job, for stages that are distributed.
        backend: where jobs run; processes of this machine by default.

    Raises:
        UserError: bad input, found here or by the job.
        TransientError: the outside world failed; running again may help.
        StageFailed: the job failed otherwise; its output has the traceback.
    """
    if procs > 1 and not spec.distributed:
        raise UserError(f"{spec.name}: procs={procs}, but this stage runs as one process; leave procs out")
    config = spec.parse(document, inputs)
    store = open_store(storage)
    if spec.always:
        # Light, and bound to this machine's view of the outside world: it runs here, not in a job.
        return Outcome(importlib.import_module(spec.entry).pin(config, store), cached=False)
    key = spec.key(config, inputs)
    found = published(store, spec.name, key)
    if found is not None:
        return Outcome(found, cached=True)
    job = JobFile(
        stage=spec.name,
        key=key,
        attempt=new_attempt(),
        storage=store.uri,
        config=dict(document),
        inputs=dict(inputs),
        procs=procs,
    )
    return Outcome(_attempt(spec, job, store, backend or ProcessBackend()), cached=False)


def _attempt(spec: StageSpec, job: JobFile, store: Store, backend: Backend) -> Manifest:
    place = f"{job.folder}/{JOB_NAME}"
    store.write(place, job.model_dump_json(indent=2).encode())
    request = JobRequest(
        stage=spec.name,
        key=job.key,
        module=spec.entry,
        environment=spec.environment,
        job_uri=join(store.uri, place),
        procs=job.procs,
    )
    code = backend.run(request)
    if code != 0:
        raise _failure(job, store, code)
    manifest = published(store, job.stage, job.key)
    if manifest is None:
        raise StageFailed(f"{job.stage}: ended without a manifest ({store.uri}/{job.folder})")
    return manifest


def _failure(job: JobFile, store: Store, code: int) -> Exception:
    """What went wrong, from what the job left and its exit code."""
    place = join(store.uri, job.folder)
    if code < 0:
        number = signal.Signals(-code)
        remedy = "; out of memory? lower the batch or the token budget" if number == signal.SIGKILL else ""
        return StageFailed(f"{job.stage}: ended by {number.name}{remedy} ({place})")
    try:
        failure = Failure.model_validate_json(store.read(f"{job.folder}/{FAILURE_NAME}"))
    except NotFound:
        failure = Failure(exit_code=code, message=f"{job.stage}: exit code {code}, see above")
    if failure.exit_code == EXIT_USER:
        return UserError(failure.message)
    if failure.exit_code == EXIT_TRANSIENT:
        return TransientError(failure.message)
    return StageFailed(f"{job.stage}: {failure.message} ({place})")
