"""Names and shapes of the tensors of safetensors files, from their headers alone."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from compose_rl.errors import UserError

__all__ = ["folder_shapes"]

_MOST_BYTES = 100_000_000
"""Of a header: the format's own limit."""


def folder_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor in a folder's ``*.safetensors``.

    Raises:
        UserError: there is no such file, or one is not whole.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder}: has no *.safetensors; give a folder of safetensors files")
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        shapes |= _file_shapes(file)
    return shapes


def _file_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _MOST_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise UserError(f"{file.name}: is not a safetensors file ({error}); send it again") from None
    if end != size:
        raise UserError(f"{file.name}: has {size} bytes, its header says {end}; send it again")
    return shapes
