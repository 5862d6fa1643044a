from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from answered import manager

from compose_rl.rewards.manager import RewardManager


@pytest.fixture
def make() -> Iterator[Callable[..., RewardManager]]:
    """``manager`` of ``answered.py``, closed at the end."""
    made: list[RewardManager] = []

    def build(*args: Any, **kwargs: Any) -> RewardManager:
        made.append(manager(*args, **kwargs))
        return made[-1]

    yield build
    for one in made:
        one.close()
