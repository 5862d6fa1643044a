"""Read the model's weights out of a Composer checkpoint, whole or sharded, without Composer.

Unpickling: a whole checkpoint is read with ``weights_only=True``, with a short list of plain types added. The
index of a sharded one is a pickle: it must come from where its SHA-256 was checked, a manifest of a stage.
"""

from __future__ import annotations

import datetime
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from compose_rl.errors import UserError

__all__ = ["find_checkpoint", "read_weights"]

_MODEL = "state.model."
_WRAPPER = "model."
"""A ComposerModel keeps its Hugging Face model under this name."""
_SAFE = (
    torch.torch_version.TorchVersion,
    datetime.timedelta,
    np.dtype,
    np.ndarray,
    np._core.multiarray._reconstruct,  # pyright: ignore[reportPrivateUsage]
    type(np.dtype(np.uint32)),
)
"""What Composer's training state holds besides tensors and plain values: times and NumPy's random state."""
_REMEDY = "remove the stage's manifest and run it again"


def find_checkpoint(folder: Path) -> Path:
    """The one checkpoint in ``folder``: a ``.pt`` file, or a folder that torch.distributed.checkpoint wrote.

    Raises:
        UserError: there is none, or there are several.
    """
    whole = {path.resolve() for path in folder.rglob("*.pt")}
    sharded = {path.parent.resolve() for path in folder.rglob(".metadata")}
    found = sorted(whole | sharded)
    if not found:
        unfinished = next(folder.rglob("*.distcp"), None)
        what = f"{unfinished.parent} lacks its .metadata" if unfinished else "neither *.pt nor .metadata"
        raise UserError(f"{folder}: no whole checkpoint ({what}); {_REMEDY}")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{folder}: {len(found)} checkpoints ({names}); leave the one to export")
    return found[0]


def read_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The tensors of the Hugging Face model by name, on the CPU, as trained.

    Raises:
        UserError: the checkpoint is cut short or is not Composer's.
    """
    read = _read_sharded if checkpoint.is_dir() else _read_whole
    try:
        state = read(checkpoint)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        first = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise UserError(f"{checkpoint}: not a whole Composer checkpoint ({first}); {_REMEDY}") from error
    weights = {
        name.removeprefix(_WRAPPER): value for name, value in state.items() if name.startswith(_WRAPPER)
    }
    if not weights:
        raise UserError(f"{checkpoint}: holds no model; give a checkpoint of Composer's training state")
    return weights


def _read_whole(path: Path) -> dict[str, torch.Tensor]:
    with torch.serialization.safe_globals(list(_SAFE)):
        document: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return document["state"]["model"]


def _read_sharded(folder: Path) -> dict[str, torch.Tensor]:
    reader = dcp.FileSystemReader(folder)
    entries = reader.read_metadata().state_dict_metadata
    state = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in entries.items()
        if name.startswith(_MODEL) and isinstance(entry, TensorStorageMetadata)
    }
    try:
        with warnings.catch_warnings(action="ignore"):  # it says that one process reads, which is the point
            dcp.load(state, storage_reader=reader, no_dist=True)
    except CheckpointException as error:  # a BaseException, with the reason inside
        reason, _ = next(iter(error.failures.values()))
        raise RuntimeError(f"{type(reason).__name__}: {reason}") from error
    return {name.removeprefix(_MODEL): value for name, value in state.items()}
