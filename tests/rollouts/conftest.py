"""Fixtures of tests of engines."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def model() -> Any:
    pytest.importorskip("torch")
    from small_llama import small_llama

    return small_llama()
