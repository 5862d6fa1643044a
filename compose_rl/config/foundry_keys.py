"""Keys of LLM Foundry's optimizers and schedulers, so that a misspelt one is named before it is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compose_rl.config.schema import unknown_key
from compose_rl.errors import UserError

__all__ = ["OPTIMIZERS", "SCHEDULERS", "check_section"]

OPTIMIZERS = {
    "decoupled_adamw": ("lr", "betas", "eps", "weight_decay", "amsgrad"),
    "decoupled_lionw": ("lr", "betas", "weight_decay"),
}
SCHEDULERS = {
    "constant_with_warmup": ("t_warmup", "alpha", "t_max", "scale_warmup"),
    "cosine_with_warmup": ("t_warmup", "t_max", "alpha_f", "scale_warmup"),
    "linear_decay_with_warmup": ("t_warmup", "alpha_i", "alpha_f", "t_max", "scale_warmup"),
}
_SECTIONS = {"optimizer": OPTIMIZERS, "scheduler": SCHEDULERS}
_ANY = frozenset({"name", "disable_grad", "param_groups"})
"""Keys that LLM Foundry takes off before it builds the thing."""


def check_section(where: str, section: Mapping[str, Any]) -> None:
    """Check the keys of ``optimizer`` or ``scheduler``; what is not LLM Foundry's own passes.

    Raises:
        UserError: names the unknown key and the nearest known one.
    """
    known = _SECTIONS[where].get(str(section.get("name")))
    if known is None:
        return
    for key in section:
        if key not in known and key not in _ANY:
            raise UserError(unknown_key(key, list(known), where))
