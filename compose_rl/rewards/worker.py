"""``python -m compose_rl.rewards.worker FD``: a process that judges answers for the pool.

It is no ``multiprocessing`` child, which would import the trainer's main module, and with it all of Composer.
"""

from __future__ import annotations

import faulthandler
import importlib
import importlib.util
import os
import pickle
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from compose_rl.config.reward_types import RewardSettings
from compose_rl.rewards.types import Failed, Reward

__all__ = ["Recipe", "main"]

_GRACE = 5.0
"""Seconds after the limit at which a worker ends itself, if nobody has ended it: its parent is gone."""


@dataclass(frozen=True)
class Recipe:
    """How another process makes a reward."""

    module: str
    name: str
    settings: RewardSettings
    file: str | None = None
    """Of a module that no import finds: one of ``code_paths``."""

    def make(self) -> Reward:
        module = importlib.import_module(self.module) if self.file is None else _load(self.module, self.file)
        reward: Reward = getattr(module, self.name)(self.settings)
        return reward


def _load(name: str, file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(descriptor: int) -> None:
    """Answer (reward's name, sample) with its score or :class:`Failed`, until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silence = Path(os.devnull).open("w")  # noqa: SIM115 (faulthandler keeps it)
    connection = Connection(descriptor)
    try:
        sys.path[:], recipes, limit = connection.recv()
        rewards = _make(recipes)
        connection.send(rewards if isinstance(rewards, Failed) else None)
        while not isinstance(rewards, Failed):
            name, sample = connection.recv()
            faulthandler.dump_traceback_later(limit + _GRACE, exit=True, file=silence)
            score = _judge(rewards[name], sample)
            faulthandler.cancel_dump_traceback_later()
            connection.send(score)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass


def _make(recipes: Mapping[str, Recipe]) -> dict[str, Reward] | Failed:
    made: dict[str, Reward] = {}
    for name, recipe in recipes.items():
        try:
            made[name] = recipe.make()
        except Exception as error:
            return Failed(f"variables.rewards.{name} cannot be made: {type(error).__name__}: {error}")
    return made


def _judge(reward: Reward, sample: Any) -> Any:
    try:
        (score,) = reward([sample])
        pickle.dumps(score)
    except (Exception, SystemExit) as error:
        return Failed(f"{type(error).__name__}: {error}")
    return score


if __name__ == "__main__":
    main(int(sys.argv[1]))
