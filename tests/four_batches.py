"""A training of four batches: long enough for a curve, the same wherever it is compared."""

from __future__ import annotations

from typing import Any

__all__ = ["CONFIG"]

CONFIG: dict[str, Any] = {
    "max_duration": "4ba",
    "global_train_batch_size": 8,
    "device_train_microbatch_size": 8,
    "device_eval_batch_size": 8,
    "eval_interval": "4ba",
    "save_interval": "2ba",
    "optimizer": {"lr": 0.003},
    "scheduler": {"name": "constant_with_warmup", "t_warmup": "0ba"},
}
