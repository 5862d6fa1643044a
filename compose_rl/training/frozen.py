"""Models that are not trained, beside the one that is."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from composer.core import State
from composer.utils import get_file

from compose_rl.errors import UserError

__all__ = ["build_frozen"]


def build_frozen(
    state: State, model: Mapping[str, Any], tokenizer: Any, load_path: str | None, *, where: str
) -> Any:
    """The Composer model that ``model`` of a document describes, in eval mode, on the state's device.

    Args:
        load_path: a Composer checkpoint whose weights it takes; those that it lacks stay, as in Composer's
            non-strict loading.
        where: who needs it, for the message.

    Raises:
        UserError: its weights would be random.
    """
    from llmfoundry.utils.builders import build_composer_model

    keys = copy.deepcopy(dict(model))
    if load_path is None and not keys.get("pretrained", "pretrained_model_name_or_path" in keys):
        raise UserError(
            f"{where}: the reference would have other random weights than the policy;"
            " set load_path to the checkpoint that the policy starts from"
        )
    # Building draws random weights, even those that are loaded over: not at the expense of training.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        built: Any = build_composer_model(
            name=keys.pop("name"),
            tokenizer=tokenizer,
            cfg=keys,
            master_weights_dtype=keys.pop("master_weights_dtype", None),
        )
    if load_path is not None:
        _load_weights(built, load_path)
    built.requires_grad_(False)
    return state.device.module_to_device(built).eval()


def _load_weights(model: Any, load_path: str) -> None:
    from compose_rl.models.checkpoint import read_weights

    with tempfile.TemporaryDirectory() as folder:
        path = Path(load_path)
        if not path.exists():
            path = Path(folder) / "checkpoint.pt"
            get_file(load_path, str(path))
        model.model.load_state_dict(read_weights(path), strict=False)
