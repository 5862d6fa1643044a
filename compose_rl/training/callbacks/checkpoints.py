"""Training state, saved so that a later attempt can tell a whole one from a broken one."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from composer.core import Callback, Event, State
from composer.loggers import Logger
from composer.utils import checkpoint, create_interval_scheduler, dist, reproducibility

from compose_rl.errors import TransientError
from compose_rl.stages.watch import LEAVE, Leave
from compose_rl.store import open_store
from compose_rl.training.checkpoints import SEAL_SUFFIX, content_digest, seal, sealed_batches

__all__ = ["StageCheckpoints"]


class StageCheckpoints(Callback):
    """Saves model, optimizer, data position and random state at an interval; seals each when it is whole.

    Composer puts the random state back at an epoch's beginning, or when it skips batches; it does neither in
    the middle of an epoch of a dataset that finds its position itself. So this callback does it there.

    When the job has to leave (:mod:`compose_rl.stages.watch`), it saves at the end of the batch, and ends it.

    Args:
        uri: where it is kept: a folder, or an s3:// prefix.
        folder: where it is written: the same folder, or a local one.
        interval: ``1ep``, ``50ba``, ``10iter``; at the end of training nothing is saved: the result follows.
        keep: how many sealed states stay.
        form: ``full``, or ``sharded``: each process saves its own part, where the model is sharded.
    """

    def __init__(
        self, uri: str, folder: str, interval: int | str = "1ep", keep: int = 1, form: str = "full"
    ) -> None:
        self.store = open_store(uri)
        self.folder = Path(folder)
        self.remote = "://" in uri
        self.keep = keep
        self.form = form
        self._due = create_interval_scheduler(interval, include_end_of_training=False)
        self._last = -1
        self._rng: list[dict[str, Any]] | None = None

    def state_dict(self) -> dict[str, Any]:
        # One value, since sharded states are read into the shape of what is there: as many as processes now.
        return {"rng": pickle.dumps(reproducibility.get_rng_state())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng = pickle.loads(state["rng"])  # the seal says that it is what was written

    def epoch_start(self, state: State, logger: Logger) -> None:
        # Composer has done it, and the new epoch's iterator is about to draw from it.
        self._rng = None

    def batch_start(self, state: State, logger: Logger) -> None:
        self._restore_rng()

    def epoch_end(self, state: State, logger: Logger) -> None:
        # Resumed after an epoch's last batch: what follows is the next epoch's iterator.
        self._restore_rng()

    def _restore_rng(self) -> None:
        if self._rng is not None:
            reproducibility.load_rng_state(self._rng)
            self._rng = None

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        if _finished(state):
            return
        reason = _agreed(LEAVE, state)
        if reason is None:
            self._save_if_due(state, Event.BATCH_CHECKPOINT)
            return
        if int(state.timestamp.batch) != self._last:
            self._save(state)
        dist.barrier()  # torchrun ends the others when one has left, and rank 0 seals last
        raise TransientError(f"{reason}; state saved after batch {int(state.timestamp.batch)}")

    def epoch_checkpoint(self, state: State, logger: Logger) -> None:
        if not _finished(state):
            self._save_if_due(state, Event.EPOCH_CHECKPOINT)

    def iteration_checkpoint(self, state: State, logger: Logger) -> None:
        if not _finished(state):
            self._save_if_due(state, Event.ITERATION_CHECKPOINT)

    def _save_if_due(self, state: State, event: Event) -> None:
        if int(state.timestamp.batch) != self._last and self._due(state, event):
            self._save(state)

    def _save(self, state: State) -> None:
        batch = self._last = int(state.timestamp.batch)
        name = f"ba{batch}"
        if state.fsdp_config is not None:  # which had the form of the state that was resumed from
            state.fsdp_config.state_dict_type = self.form
        with LEAVE.ends_itself(saving=True):
            written = checkpoint.save_checkpoint(state, str(self.folder / name / "rank{rank}.pt"))
            files = self._digests(name, Path(written) if written else None)
            if dist.get_global_rank() == 0:
                # Composer loads shards by their folder and a whole state by its file.
                load = next(iter(files))
                load = str(Path(load).parent) if state.fsdp_sharded_state_dict_enabled else load
                seal(self.store, batch=batch, load=load, files=files)
                self._remove_old()

    def _digests(self, name: str, written: Path | None) -> dict[str, str]:
        """SHA-256 by path of what all processes wrote; each process uploads its own."""
        own: dict[str, str] = {}
        if written is not None:
            metadata = written.parent / ".metadata"
            with_metadata = dist.get_global_rank() == 0 and metadata.exists()
            for path in [written, metadata] if with_metadata else [written]:
                relative = str(path.relative_to(self.folder))
                own[relative] = content_digest(path)
                if self.remote:
                    self.store.upload(path, relative)
        gathered = dist.all_gather_object(own)
        if self.remote:  # not before all have uploaded: the processes of a machine share the folder
            shutil.rmtree(self.folder / name, ignore_errors=True)
        return {path: digest for part in gathered for path, digest in part.items()}

    def _remove_old(self) -> None:
        for batch in sealed_batches(self.store)[self.keep :]:
            # The seal first: without it the state is not taken for whole while it goes.
            self.store.delete(f"ba{batch}{SEAL_SUFFIX}")
            self.store.delete(f"ba{batch}")


def _finished(state: State) -> bool:
    """Nothing more to train: the result follows."""
    elapsed = state.get_elapsed_duration()
    return elapsed is not None and float(elapsed) >= 1.0


def _agreed(leave: Leave, state: State) -> str | None:
    """Why all processes leave now, since one of them is to; None while none is."""
    wanted = state.device.tensor_to_device(torch.tensor(int(leave.wanted)))
    dist.all_reduce(wanted, "MAX")
    if not wanted.item():
        return None
    return next(reason for reason in dist.all_gather_object(leave.reason) if reason)
