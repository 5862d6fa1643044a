"""The policy's weights as others take them: whole, under plain Hugging Face names."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from compose_rl.errors import UserError
from compose_rl.models.backbone import unwrapped
from compose_rl.models.critic import HEAD, MODEL

__all__ = ["full_weights"]

_CHECKPOINTED = "_checkpoint_wrapped_module"
"""What activation checkpointing puts into names."""


@torch.no_grad()
def full_weights(model: nn.Module, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
    """The policy's tensors by the names of ``save_pretrained``, one after the other, on the model's device.

    Without a critic; LoRA is added to what it belongs to, in float32 and in a copy; tied weights come once,
    under the first of their names; what FSDP has sharded is gathered, tensor by tensor.

    Where nothing has to be made, a tensor is the model's own: read it before the next step.

    Args:
        model: a Composer model, in DDP or not, or the Hugging Face or PEFT model in it. With FSDP every rank
            has to take every tensor, in this order.
        dtype: that floating-point tensors are cast to, before they are gathered.

    Raises:
        UserError: an adapter that cannot be merged.
    """
    inner = unwrapped(_language_model(model))
    seen: set[int] = set()
    for name, tensor in _tensors(inner, ""):
        if isinstance(tensor, _Merged):
            yield name, _whole(tensor.sum(), dtype)
        elif id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, _whole(tensor, dtype)


def _language_model(model: nn.Module) -> Any:
    """What a Composer model, in DDP or not, is around."""
    model = getattr(model, "module", model)
    return model.model if hasattr(model, "model_forward_args") else model


@dataclass(frozen=True)
class _Merged:
    """A weight to which its adapters' parts are to be added."""

    weight: Tensor
    layer: Any
    """PEFT's, around the module of the weight."""

    def sum(self) -> Tensor:
        deltas = [self.layer.get_delta_weight(name) for name in self.layer.active_adapters]
        return functools.reduce(torch.add, (delta.float() for delta in deltas), self.weight.float())


def _tensors(module: nn.Module, path: str) -> Iterator[tuple[str, Tensor | _Merged]]:
    """The module's parameters and saved buffers in their order, by the names they have without PEFT."""
    if hasattr(module, "base_layer"):
        yield from _with_adapter(module, path)
        return
    if hasattr(module, "modules_to_save"):
        yield from _tensors(module.modules_to_save[module.active_adapters[0]], path)
        return
    for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
        if tensor is not None and name not in module._non_persistent_buffers_set:
            yield f"{path}{name}", tensor
    for name, child in module.named_children():
        if name not in (HEAD, MODEL):
            yield from _tensors(child, path if name == _CHECKPOINTED else f"{path}{name}.")


def _with_adapter(layer: Any, path: str) -> Iterator[tuple[str, Tensor | _Merged]]:
    if any(getattr(layer, "lora_variant", {}).values()):
        raise UserError(
            f"peft_config: '{path[:-1]}' has a variant of LoRA that is not merged during training;"
            " use plain LoRA (use_dora: false)"
        )
    for name, tensor in _tensors(layer.base_layer, path):
        merges = name == f"{path}weight" and not layer.merged and not layer.disable_adapters
        yield name, _Merged(tensor, layer) if merges else tensor


def _whole(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach()
    if dtype is not None and tensor.is_floating_point():
        tensor = tensor.to(dtype)
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
