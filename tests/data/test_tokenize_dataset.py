"""The command line without a store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from compose_rl.data.tokenize_dataset import main


def call(tmp_path: Path, tokenizer: Path, rows: list[dict], *flags: str) -> int:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fixed = ["--dataset_name", str(tmp_path / "rows.jsonl"), "--local_dir", str(tmp_path / "out")]
    return main([*fixed, "--tokenizer_name", str(tokenizer), "--max_length", "64", *flags])


def test_local_rows_become_shards_and_a_report(tmp_path: Path, small_tokenizer: Path) -> None:
    rows = [{"question": "the cat", "answer": "7"}]
    flags = ["--dataset_type", "verifiable_answers", "--columns", "prompt=question"]
    assert call(tmp_path, small_tokenizer, rows, *flags) == 0
    [shard] = json.loads((tmp_path / "out" / "train" / "index.json").read_text())["shards"]
    assert (shard["column_names"], shard["column_encodings"]) == (
        ["prompt", "verified_answer"],
        ["bytes", "str"],
    )
    assert json.loads((tmp_path / "out" / "report" / "train" / "report.json").read_text())["kept"] == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report", "train"]


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        ([{"text": "x"}], ["--dataset_type", "single_prompt"], "no column 'prompt'"),
        ([{"prompt": ""}], ["--dataset_type", "single_prompt"], "empty prompt"),
        (
            [{"prompt": "x"}],
            ["--dataset_type", "single_prompt", "--columns", "prompt"],
            "write it as ours=theirs",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    small_tokenizer: Path,
    capsys: pytest.CaptureFixture[str],
    rows: list[dict],
    flags: list[str],
    message: str,
) -> None:
    assert call(tmp_path, small_tokenizer, rows, *flags) == 2
    said = capsys.readouterr().err
    assert "error: " in said
    assert message in said
    assert not list(tmp_path.glob("out/*"))


def test_a_folder_with_shards_is_not_written_over(
    tmp_path: Path, small_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dataset_type", "single_prompt"]
    assert call(tmp_path, small_tokenizer, [{"prompt": "x"}], *flags) == 0
    assert call(tmp_path, small_tokenizer, [{"prompt": "x"}], *flags) == 2
    assert "is not empty" in capsys.readouterr().err
