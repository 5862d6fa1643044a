"""FSDP 2 on CPUs: average gradients over processes.

FSDP 2 asks its backend for an average (``ReduceOp.AVG``). Gloo in torch 2.7 takes that and gives the sum, and
gradients would be as many times too large as there are processes. For one kind of device FSDP 2 divides by
itself and asks for a sum; here CPUs are treated as that kind. NCCL averages, and GPUs are left alone.
"""

from __future__ import annotations

from typing import Any

__all__ = ["average_on_cpu"]

_DIVIDES_ITSELF = "mtia"


def average_on_cpu() -> None:
    """From now on FSDP 2 averages gradients on CPUs, in this process."""
    from torch.distributed.fsdp._fully_shard import _fsdp_collectives as collectives

    original = collectives._get_gradient_divide_factors
    if getattr(original, "averages_on_cpu", False):
        return

    def factors(group: Any, all_reduce_group: Any, dtype: Any, device_type: str = "") -> Any:
        return original(
            group, all_reduce_group, dtype, _DIVIDES_ITSELF if device_type == "cpu" else device_type
        )

    factors.averages_on_cpu = True  # type: ignore[attr-defined]
    collectives._get_gradient_divide_factors = factors
