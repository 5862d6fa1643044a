"""What is told about the data, and when there is too little of it left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from compose_rl.data.report import DataReport, SplitReport, check_dropped, write_report
from compose_rl.data.tokenizing import TokenizedChunk
from compose_rl.errors import UserError


def report(*dropped: tuple[int, str], rows: int = 10, kept: list[int] | None = None) -> DataReport:
    result = DataReport(splits={"train": SplitReport(lengths=kept or [1, 2, 3, 9])})
    result.add(TokenizedChunk(rows, dropped=list(dropped)))
    return result


def test_reasons_are_counted_with_the_first_rows_they_struck() -> None:
    counted = report((2, "empty answer"), (4, "identical pair"), (7, "empty answer"))
    assert counted.summary()["dropped"] == [
        {"reason": "empty answer", "rows": 2, "examples": [3, 8]},
        {"reason": "identical pair", "rows": 1, "examples": [5]},
    ]
    assert counted.summary()["identical_pairs"] == 1


def test_lengths_are_summed_up() -> None:
    split = report().summary()["splits"]["train"]
    # 1, 2, 3, 9: powers of two hold 1 | 2, 3 | - | 9
    assert split["length"] == {"min": 1, "mean": 3.8, "p50": 3, "p90": 9, "p95": 9, "p99": 9, "max": 9}
    assert split["histogram"] == [
        {"from": 1, "below": 2, "samples": 1},
        {"from": 2, "below": 4, "samples": 2},
        {"from": 8, "below": 16, "samples": 1},
    ]


def test_too_many_dropped_rows_are_refused_with_the_biggest_reason() -> None:
    dropped = report((0, "empty answer"), (1, "identical pair"), (3, "identical pair"))
    check_dropped(dropped, 0.3, "data.jsonl")
    with pytest.raises(
        UserError, match=r"data.jsonl: 3 of 10 .*identical pair \(2 rows, for instance 2, 4\).*raise"
    ):
        check_dropped(dropped, 0.29, "data.jsonl")


def test_a_source_without_a_row_left_is_refused_whatever_the_limit() -> None:
    with pytest.raises(UserError, match="2 of 2 rows dropped"):
        check_dropped(report((0, "empty answer"), (1, "empty answer"), rows=2), 1.0, "data.jsonl")
    with pytest.raises(UserError, match="no rows"):
        check_dropped(DataReport(), 1.0, "data.jsonl")


def test_the_report_is_written_for_people_and_for_programs(tmp_path: Path) -> None:
    told = report((2, "empty answer"))
    told.splits["train"].shown = [{"row": 1, "prompt": "ü?"}]
    write_report(told, tmp_path, {"source": "data.jsonl"})
    assert json.loads((tmp_path / "report.json").read_text())["kept"] == 4
    text = (tmp_path / "report.md").read_text()
    for part in (
        "- source: data.jsonl",
        "- rows: 10, kept: 4",
        "| empty answer | 1 | 3 |",
        "ü?",
        "4 samples",
    ):
        assert part in text
