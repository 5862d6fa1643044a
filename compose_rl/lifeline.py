"""A process that ends when the one that started it does, even by SIGKILL: nothing runs on unseen."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["PARENT_VARIABLE", "die_with_parent", "die_with_parent_hook"]

PARENT_VARIABLE = "COMPOSE_RL_LAUNCHER"
"""Process id of the launcher, in the environment of what it starts."""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent_hook() -> None:
    """Have the kernel kill this process when its parent ends (Linux; elsewhere nothing happens)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with_parent() -> None:
    """The same at the start of a stage's own process, which torchrun may have started.

    Does nothing for a process that no launcher started, and ends at once if the launcher is already gone.
    """
    launcher = os.environ.get(PARENT_VARIABLE)
    if launcher is None:
        return
    die_with_parent_hook()
    try:
        os.kill(int(launcher), 0)
    except ProcessLookupError:
        os._exit(128 + signal.SIGTERM)
