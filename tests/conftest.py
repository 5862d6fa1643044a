"""Fixtures for tests of the stage contract."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

from compose_rl.stages.spec import StageSpec

TOY = Path(__file__).parent / "toy"


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test alone."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("COMPOSE_RL_CACHE", str(folder))
    return folder


@pytest.fixture
def toy(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> StageSpec:
    """The specification of ``tests/toy/toy_stage.py``, which runs as a process of this environment."""
    monkeypatch.syspath_prepend(str(TOY))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TOY), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("COMPOSE_RL_ENV_TRAIN", sys.prefix)
    return importlib.import_module("toy_stage").SPEC
