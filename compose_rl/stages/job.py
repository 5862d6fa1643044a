"""The running side of a stage: what it reads, where it writes, how its result appears whole or not at all."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compose_rl.config.schema import parse
from compose_rl.errors import EXIT_BUG, EXIT_TRANSIENT, EXIT_USER, TransientError, UserError
from compose_rl.lifeline import PARENT_VARIABLE, die_with_parent
from compose_rl.progress import Progress
from compose_rl.stages.attempt import FAILURE_NAME, Failure, JobFile, fetched, published
from compose_rl.stages.provenance import commit, image, versions
from compose_rl.stages.sources import local_model
from compose_rl.stages.spec import StageSpec
from compose_rl.stages.watch import LEAVE, watch_leases, watch_signals
from compose_rl.store import Store, join, open_store, split
from compose_rl.store.checksums import cache_root, describe
from compose_rl.store.folder import FolderStore, no_space, storage_errors
from compose_rl.store.leases import Leases
from compose_rl.store.manifest import MANIFEST_NAME, Input, Manifest, Output

__all__ = ["Job", "JobFile", "Result", "execute", "fetched", "main"]


@dataclass(frozen=True)
class Result:
    """What ``run`` returns."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    """Scalars, finite."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """Small facts for later stages; the table in docs/architecture.md says which."""


class Job:
    """One attempt at a stage, as its ``run`` sees it."""

    def __init__(self, spec: StageSpec, document: JobFile) -> None:
        self.spec = spec
        self.key = document.key
        self.attempt = document.attempt
        self.procs = document.procs
        self.inputs: dict[str, Manifest] = document.inputs
        self.document = document
        self.config: Any = spec.parse(document.config, document.inputs)
        if spec.key(self.config, document.inputs) != document.key:
            raise UserError(
                f"{spec.name}: the code has changed since this job was made; start the stage again"
            )
        self.store: Store = open_store(document.storage)
        self.rank = int(os.environ.get("RANK", "0"))
        self.progress = Progress(spec.name, quiet=self.rank != 0)
        self.leave = LEAVE
        self.outputs: dict[str, Path] = {}
        self._verified: dict[tuple[str, str], Path] = {}
        self._models: dict[str, Path] = {}

    def input(self, name: str, output: str) -> Path:
        """The local folder of the input's output, checked against its recorded sizes and SHA-256.

        In place where the input lies in a folder; downloaded once into the cache where it lies in S3.

        Raises:
            UserError: a file is missing, cut short or changed.
        """
        if (name, output) not in self._verified:
            manifest = self.inputs[name]
            self._verified[name, output] = fetched(manifest, output)
        return self._verified[name, output]

    def model_path(self, name: str) -> Path:
        """The Hugging Face folder of an input that is a pinned model (resolve) or an exported one."""
        if name not in self._models:
            self._models[name] = local_model(self.inputs[name])
        return self._models[name]

    def output(self, name: str) -> Path:
        """The folder to fill for the output ``name``; recorded (and uploaded) when ``run`` returns."""
        if name not in self.spec.outputs:
            raise KeyError(f"stage '{self.spec.name}' declares no output '{name}'")
        self.outputs[name] = self._folder(name)
        return self.outputs[name]

    @property
    def scratch(self) -> Path:
        """A work folder of this attempt, removed at its end."""
        return self._folder("scratch")

    @property
    def checkpoints(self) -> str:
        """Where this attempt saves its training state, a folder or s3:// prefix; removed at the end."""
        return join(self.store.uri, self.document.folder, "checkpoints")

    def earlier_checkpoints(self) -> list[str]:
        """The same place of earlier, unfinished attempts at this key that saved something, newest first."""
        parent = f"{self.spec.name}/{self.key}"
        attempts = [name for name in self.store.folders(parent) if name < self.attempt]
        found = [f"{parent}/{name}/checkpoints" for name in sorted(attempts, reverse=True)]
        return [join(self.store.uri, path) for path in found if self.store.list(path)]

    @property
    def work(self) -> Path:
        """The local folder of this attempt: in the store where that is a folder, else in the cache.

        The same for all processes of the job on this machine.
        """
        if isinstance(self.store, FolderStore):
            return self.store.root / self.document.folder
        return cache_root() / "work" / self.document.folder

    def _folder(self, name: str) -> Path:
        path = self.work / name
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def discard_outputs(self) -> None:
        """Remove what a failed attempt wrote, except its checkpoints."""
        for name in ("scratch", *self.outputs):
            shutil.rmtree(self.work / name, ignore_errors=True)

    def clean(self, *, everything: bool = False) -> None:
        """Remove what is no part of the result; with ``everything``, the result too."""
        shutil.rmtree(self.work / "scratch", ignore_errors=True)
        if everything:
            self.store.delete(self.document.folder)
        else:
            self.store.delete(f"{self.document.folder}/checkpoints")
        if not isinstance(self.store, FolderStore):
            shutil.rmtree(self.work, ignore_errors=True)


def execute(job: Job, run: Callable[[Job], Result]) -> Manifest | None:
    """Run the stage and publish its manifest; None on ranks other than 0.

    Whoever writes the manifest of a key first wins; a later attempt removes its own files and takes that one.
    """
    started = time.monotonic()
    result = run(job)
    if job.rank != 0:
        return None
    with job.leave.ends_itself():
        return _publish(job, result, time.monotonic() - started)


def _publish(job: Job, result: Result, seconds: float) -> Manifest | None:
    missing = sorted(set(job.spec.outputs) - set(job.outputs))
    assert not missing, f"stage '{job.spec.name}' returned without its outputs {missing}"
    outputs = {name: _stored(job, name, folder) for name, folder in job.outputs.items()}
    place = f"{job.spec.name}/{job.key}/{MANIFEST_NAME}"
    manifest = Manifest(
        stage=job.spec.name,
        version=job.spec.version,
        key=job.key,
        uri=join(job.store.uri, place),
        attempt=job.attempt,
        config=job.config.model_dump(mode="json"),
        inputs={name: Input(stage=m.stage, key=m.key, uri=m.uri) for name, m in job.inputs.items()},
        code=dict(job.spec.code(job.config)),
        outputs=outputs,
        metrics=dict(result.metrics),
        info=dict(result.info),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        versions=versions(),
        commit=commit(),
        image=image(),
    )
    first = job.store.create(place, manifest.to_json().encode())
    job.clean(everything=not first)
    if first:
        return manifest
    job.progress.say("another attempt finished first; taking its result")
    return published(job.store, job.spec.name, job.key)


def _stored(job: Job, name: str, folder: Path) -> Output:
    files = describe(folder)
    path = f"{job.document.folder}/{name}"
    if not isinstance(job.store, FolderStore):
        job.store.upload(folder, path)
    return Output(uri=join(job.store.uri, path), files=files)


def main(spec: StageSpec, run: Callable[[Job], Result]) -> None:
    """The end of every ``compose_rl/stages/<x>/run.py``: run the job that ``--job`` names and exit."""
    die_with_parent()
    parser = argparse.ArgumentParser(prog=f"python -m {spec.entry}", description=spec.doc)
    parser.add_argument("--job", required=True, help="path or s3:// URI of the attempt's job.json")
    sys.exit(_run(spec, run, parser.parse_args().job))


def _run(spec: StageSpec, run: Callable[[Job], Result], uri: str) -> int:
    store, name = split(uri)
    job: Job | None = None

    def leave() -> None:
        _record(store, Failure(exit_code=EXIT_TRANSIENT, message=LEAVE.reason), job)
        sys.stdout.flush()
        os._exit(EXIT_TRANSIENT)

    with watch_signals(LEAVE, leave):
        try:
            job = Job(spec, parse(JobFile, json.loads(store.read(name)), uri))
            minutes = job.document.lease_minutes if job.rank == 0 else None
            with watch_leases(Leases(job.store, job.key), minutes, LEAVE):
                execute(job, run)
        except Exception as error:
            # torchrun ends the other processes when one has; it need not cut short what is left to do here.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            with LEAVE.ends_itself():
                if LEAVE.wanted and not isinstance(error, TransientError):
                    # What fails now fails because something has left already.
                    error = TransientError(LEAVE.reason)
                failure = _failure(error, uri)
                if failure.exit_code == EXIT_BUG:
                    traceback.print_exc()
                _record(store, failure, job, first_cause=not _lost_contact(error))
                return failure.exit_code
    return 0


def _record(store: Store, failure: Failure, job: Job | None, *, first_cause: bool = True) -> None:
    """Say why this process ends: to the launcher by the storage, to torchrun by the file that it names.

    Of several processes the first to fail says it: what the others then see follows from that.

    Args:
        first_cause: False where another process must have failed before.
    """
    if job is not None and job.rank == 0:
        job.discard_outputs()  # before the reason is written, for which a full disk would have no room
    recorded = False
    with contextlib.suppress(UserError, TransientError):
        if first_cause:
            store.create(FAILURE_NAME, failure.model_dump_json().encode())
            recorded = True
    told = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if told:
        with contextlib.suppress(OSError):
            Path(told).write_text(json.dumps({"message": failure.message, "timestamp": int(time.time())}))
    if failure.exit_code != EXIT_BUG and (PARENT_VARIABLE not in os.environ or not recorded):
        print(f"error: {failure.message}", file=sys.stderr, flush=True)


def _failure(error: Exception, uri: str) -> Failure:
    if isinstance(error, UserError | TransientError):
        return Failure(exit_code=error.exit_code, message=str(error))
    if _lost_contact(error):
        text = " ".join(str(error).split())
        return Failure(exit_code=EXIT_TRANSIENT, message=f"lost contact with another process ({text})")
    if no_space(error):
        message = f"{uri.rpartition('/')[0]}: the disk is full; free space or choose another storage"
        return Failure(exit_code=EXIT_USER, message=message)
    return Failure(exit_code=EXIT_BUG, message=f"{type(error).__name__}: {error}")


def _lost_contact(error: BaseException) -> bool:
    """Another process of the job has ended, which torch says by a class of its own (NCCL) or words (gloo)."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return "DistError" in names or (isinstance(error, RuntimeError) and "gloo/transport" in str(error))
