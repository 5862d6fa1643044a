"""With what a result was made: versions, commit, image."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

__all__ = ["commit", "image", "versions"]

_RECORDED = {
    "composer": "mosaicml",
    "compose_rl": "compose-rl",
    "datasets": "datasets",
    "llmfoundry": "llm-foundry",
    "peft": "peft",
    "streaming": "mosaicml-streaming",
    "torch": "torch",
    "transformers": "transformers",
    "vllm": "vllm",
}
"""Distribution by the module that shows that it was used."""


def versions() -> dict[str, str]:
    """Versions of Python and of what this process has imported."""
    found = {"python": platform.python_version()}
    for module, distribution in _RECORDED.items():
        if module in sys.modules:
            try:
                found[distribution] = metadata.version(distribution)
            except metadata.PackageNotFoundError:
                continue
    return found


@functools.cache
def commit() -> str:
    """The git commit of the code: ``COMPOSE_RL_COMMIT`` (set in images), else the checkout's, else empty."""
    given = os.environ.get("COMPOSE_RL_COMMIT")
    if given is not None:
        return given
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def image() -> str:
    """The image that this process runs in, if its environment says so."""
    return os.environ.get("COMPOSE_RL_IMAGE", "")
