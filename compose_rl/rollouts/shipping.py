"""Weights on their way to servers: one safetensors file in shared memory."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from compose_rl.rollouts.connection import Connection

__all__ = ["Shipment", "cast"]

_SHARED_MEMORY = Path("/dev/shm")
_PREFIX = "compose-rl-weights-"
_SPARE = 1.1
"""Of the weights' size, which must be free in shared memory: containers have 64 MiB of it by default."""


def cast(weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Weights on the CPU, floating ones as ``dtype``; of names with the same memory the first."""
    found: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in weights:
        wanted = dtype if tensor.is_floating_point() else None
        ours = tensor.detach().to(device="cpu", dtype=wanted).contiguous()
        # Not the given one's place: what was merged or gathered is gone by now, and the next one lies there.
        place = (ours.data_ptr(), ours.shape)
        if ours.numel() and place in seen:
            continue
        seen.add(place)
        found[name] = ours
    return found


class Shipment:
    """Weights of a version in a folder of their own, which is there until :meth:`close`."""

    def __init__(self, weights: dict[str, Tensor], version: int) -> None:
        self.version = version
        self.bytes = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_room(self.bytes)))
        self._file = self.folder / "model.safetensors"
        try:
            # The server looks for *.safetensors: what is not whole has another name.
            draft = self.folder / "draft"
            save_file(weights, draft)
            draft.replace(self._file)
        except BaseException:
            self.close()
            raise

    def deliver(self, server: Connection) -> None:
        """Hand the weights to a server: by the folder's name where it sees it, else all bytes.

        Raises:
            UserError: the server refuses them.
            ServerLost: it does not answer.
        """
        if not server.weights_at(self.folder, self.version):
            server.send_weights(self._file, self.version)

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _room(size: int) -> Path:
    with contextlib.suppress(OSError):
        _remove_left(_SHARED_MEMORY)
        if shutil.disk_usage(_SHARED_MEMORY).free > size * _SPARE and os.access(_SHARED_MEMORY, os.W_OK):
            return _SHARED_MEMORY
    return Path(tempfile.gettempdir())


def _remove_left(folder: Path) -> None:
    """Remove what trainers left that were killed: memory that nothing else would free."""
    for left in folder.glob(f"{_PREFIX}*"):
        found = re.fullmatch(rf"{_PREFIX}(\d+)-.*", left.name)
        if found and left.stat().st_uid == os.getuid() and not Path(f"/proc/{found[1]}").exists():
            shutil.rmtree(left, ignore_errors=True)
