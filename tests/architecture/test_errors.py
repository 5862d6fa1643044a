"""docs/errors.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "errors.md").read_text()


@pytest.mark.parametrize(
    "reference", sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TABLE))), ids="::".join
)
def test_every_test_named_by_the_table_of_errors_exists(reference: tuple[str, str]) -> None:
    path, name = reference
    tree = ast.parse((ROOT / path).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_row_names_a_test() -> None:
    rows = [line for line in TABLE.split("| what |")[1].splitlines()[2:] if line.startswith("|")]
    assert len(rows) > 20
    for row in rows:
        assert re.search(r"`tests/[\w/]+\.py::\w+`", row), row
