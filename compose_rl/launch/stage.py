"""The launching side of a stage: check, compute the key, answer from the store or start an attempt."""

from __future__ import annotations

import importlib
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compose_rl.config.resources import Resources
from compose_rl.errors import EXIT_TRANSIENT, EXIT_USER, StageFailed, TransientError, UserError
from compose_rl.launch.attempts import recorded_failure
from compose_rl.launch.backend import Backend, Ended, JobRequest
from compose_rl.launch.choose import Cluster, backend_for
from compose_rl.stages.attempt import Failure, published
from compose_rl.stages.spec import StageSpec
from compose_rl.store import Store, join, open_store
from compose_rl.store.manifest import Manifest

__all__ = ["Outcome", "run_stage"]


@dataclass(frozen=True)
class Outcome:
    """A stage's result."""

    manifest: Manifest
    cached: bool
    """It was there already; nothing ran."""


def run_stage(
    spec: StageSpec,
    document: Mapping[str, Any],
    inputs: Mapping[str, Manifest],
    storage: str,
    *,
    resources: Resources | None = None,
    backend: Backend | None = None,
    image: str | None = None,
    step: str = "",
) -> Outcome:
    """The stage's result: from the store if it is there, else from an attempt started now.

    Args:
        document: the configuration, unparsed.
        inputs: manifests by slot.
        storage: folder or ``s3://bucket/prefix``.
        resources: what the job asks of the place where it runs.
        backend: where jobs run; by default the one that ``resources`` names.
        image: of the job, where that is a job of its own and ``resources`` names none.
        step: the pipeline's step whose result this is.

    Raises:
        UserError: bad input, found here or by the job.
        TransientError: the outside world failed; running again may help.
        StageFailed: the job failed otherwise; its output has the traceback.
    """
    resources = resources or Resources()
    processes = resources.nodes * resources.procs
    if processes > 1 and not spec.distributed:
        raise UserError(
            f"{spec.name}: nodes={resources.nodes} with procs_per_node={resources.procs}, but this stage"
            " runs as one process; set both to 1"
        )
    config = spec.parse(document, inputs)
    store = open_store(storage)
    if spec.always:
        # Light, and bound to this machine's view of the outside world: it runs here, not in a job.
        return Outcome(importlib.import_module(spec.entry).pin(config, store), cached=False)
    key = spec.key(config, inputs)
    found = published(store, spec.name, key)
    if found is not None:
        return Outcome(found, cached=True)
    request = JobRequest(spec=spec, key=key, store=store, config=document, inputs=inputs, resources=resources)
    backend = backend or backend_for(spec, resources, Cluster(image=image, step=step))
    return Outcome(_run(request, backend), cached=False)


def _run(request: JobRequest, backend: Backend) -> Manifest:
    ended = backend.run(request)
    if ended.exit_code != 0:
        raise _failure(request.store, ended)
    manifest = published(request.store, request.spec.name, request.key)
    if manifest is None:
        place = join(request.store.uri, ended.job.folder)
        raise StageFailed(f"{request.spec.name}: ended without a manifest ({place})")
    return manifest


def _failure(store: Store, ended: Ended) -> Exception:
    """What went wrong, from what the job left and what the place knows of its end."""
    job, code = ended.job, ended.exit_code
    place = join(store.uri, job.folder)
    if code < 0:
        number = signal.Signals(-code)
        remedy = "; out of memory? lower the batch or the token budget" if number == signal.SIGKILL else ""
        return StageFailed(f"{job.stage}: ended by {number.name}{remedy} ({place})")
    failure = Failure(exit_code=code, message=ended.reason or f"{job.stage}: exit code {code}, see above")
    if not ended.reason:
        # A place that gives one saw all processes; one that lives on knows of another only that it is gone.
        failure = recorded_failure(store, job) or failure
    if failure.exit_code == EXIT_USER:
        return UserError(failure.message)
    if failure.exit_code == EXIT_TRANSIENT:
        return TransientError(failure.message)
    return StageFailed(f"{job.stage}: {failure.message} ({place})")
