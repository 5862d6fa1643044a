"""Losses of preference optimisation and of reward models: one file each, tables to pick from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from compose_rl.core.losses.bce import bce
from compose_rl.core.losses.bt import bt
from compose_rl.core.losses.bt_eurus import bt_eurus
from compose_rl.core.losses.dpo import dpo
from compose_rl.core.losses.ipo import ipo
from compose_rl.core.losses.kto import kto, kto_kl, kto_kl_sums
from compose_rl.core.losses.rcdpo import rcdpo
from compose_rl.core.losses.rebel import rebel
from compose_rl.core.losses.rpo import rpo
from compose_rl.core.losses.types import LabelledScores, LossOutput, PairLogps, PairScores, UnpairedLogps

if TYPE_CHECKING:
    from compose_rl.config.offline_rl import OfflineRLSettings

__all__ = [
    "OFFLINE_LOSSES",
    "REWARD_LOSSES",
    "UNPAIRED_LOSSES",
    "LabelledScores",
    "LossOutput",
    "PairLogps",
    "PairScores",
    "UnpairedLogps",
    "kto_kl",
    "kto_kl_sums",
]

OFFLINE_LOSSES: Mapping[str, Callable[[PairLogps, OfflineRLSettings], LossOutput]] = {
    "dpo": dpo,
    "ipo": ipo,
    "kto": kto,
    "rpo": rpo,
    "rcdpo": rcdpo,
    "rebel": rebel,
}
"""Losses on pairs, by ``loss_type``."""

UNPAIRED_LOSSES: Mapping[str, Callable[[UnpairedLogps, OfflineRLSettings], LossOutput]] = {"kto": kto}
"""Losses on single labelled completions, by ``loss_type``."""

REWARD_LOSSES: Mapping[str, Callable[[Any], LossOutput]] = {"bt": bt, "bt_eurus": bt_eurus, "bce": bce}
"""Reward-model losses, by ``loss_type``: ``bt`` and ``bt_eurus`` take PairScores, ``bce`` LabelledScores."""
