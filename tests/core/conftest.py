"""Ragged rows for the tests of packing, attention and log-probs."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

RAGGED = [[3, 4, 2, 5], [0, 2, 3, 1], [5, 0, 4, 1], [7, 0, 0, 0], [1, 1, 1, 1]]


@pytest.fixture
def ragged_lengths():
    """Rows of a prompt and three answers; among them an empty prompt, empty answers and an answerless row."""
    return torch.tensor(RAGGED)
