"""Tables of the documentation name tests that exist, in every row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLES = {"errors.md": "| what |", "launchers.md": "| | A |"}
"""Document -> the start of its table's header."""
TEXTS = {name: (ROOT / "docs" / name).read_text() for name in TABLES}
NAMED = sorted(
    {found for text in TEXTS.values() for found in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)}
)


@pytest.mark.parametrize("reference", NAMED, ids="::".join)
def test_every_test_that_a_table_names_exists(reference: tuple[str, str]) -> None:
    path, name = reference
    tree = ast.parse((ROOT / path).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("document", TABLES)
def test_every_row_names_a_test(document: str) -> None:
    table = TEXTS[document].split(TABLES[document])[1]
    rows = [line for line in table.splitlines()[2:] if line.startswith("|")]
    assert len(rows) > 10
    for row in rows:
        assert re.search(r"`tests/[\w/]+\.py::\w+`", row), row
