"""Reference log-probs of a dataset, from the ``reference_logprobs`` stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from compose_rl.data.shards import Sample
from compose_rl.errors import UserError

__all__ = ["Reference", "reference_file"]

_NAMES = {
    "chosen": "ref_chosen",
    "rejected": "ref_rejected",
    "completion": "ref_completion",
    "mismatched": "ref_kl",
}


def reference_file(place: str, split: str) -> Path:
    """The file for ``split`` in the folder ``place``, or ``place`` if it is a file.

    Raises:
        UserError: there is none.
    """
    path = Path(place)
    found = path if path.is_file() else path / f"{split}.safetensors"
    if not found.is_file():
        raise UserError(f"reference: no {found}; give a folder that the reference_logprobs stage wrote")
    return found


class Reference:
    """Log-prob sums under the reference policy, float32 [N] each, by the dataset's index.

    Raises:
        UserError: the file is damaged, or is of a dataset of another size.
    """

    def __init__(self, path: Path, samples: int) -> None:
        try:
            columns = load_file(path)
        except Exception as error:
            raise UserError(
                f"{path}: not a whole safetensors file ({error}); run reference_logprobs again"
            ) from None
        self.columns: dict[str, np.ndarray] = {}
        for name, values in columns.items():
            if name not in _NAMES:
                raise UserError(f"{path}: unknown tensor '{name}'; it may hold: {', '.join(_NAMES)}")
            if values.shape != (samples,):
                raise UserError(
                    f"{path}: '{name}' is of {len(values)} samples, the dataset has {samples};"
                    " run reference_logprobs on this dataset"
                )
            self.columns[_NAMES[name]] = values

    def add(self, sample: Sample) -> Sample:
        """The sample with its own log-prob sums."""
        return sample | {name: float(values[sample["index"]]) for name, values in self.columns.items()}
