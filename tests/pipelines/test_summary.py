"""What a run shows at its end."""

import io
from typing import Any

import pytest

pytest.importorskip("kfp")

from rich.console import Console

from compose_rl.store.manifest import File, Manifest, Output
from pipelines.local_runner import StepRun
from pipelines.summary import show


def manifest(stage: str, metrics: dict[str, float], **changed: Any) -> Manifest:
    place = {"uri": f"/s/{stage}/0/manifest.json", "attempt": "a"}
    return Manifest(stage=stage, version=1, key="0" * 64, config={}, metrics=metrics, **place, **changed)


def shown(*steps: StepRun) -> str:
    out = io.StringIO()
    show(steps, Console(file=out, width=120))
    return out.getvalue()


def test_steps_with_result_and_time() -> None:
    text = shown(
        StepRun("resolve_model", 0.25, "checked", manifest("resolve", {"files": 2.0})),
        StepRun("sft", 1.5, "absent", None),
    )
    assert [line.split()[1::2] for line in text.splitlines() if "sft" in line] == [["sft", "absent", "1.5"]]
    assert "1.8" in text  # 0.25 + 1.5, rounded
    assert "files" not in text


def test_figures_of_the_last_step_that_found_something() -> None:
    text = shown(
        StepRun("reward_model", 60.0, "made", manifest("reward_model", {"metrics/eval/accuracy": 0.875})),
        StepRun("export_reward_model", 5.0, "made", manifest("export", {"parameters": 100.0})),
    )
    assert "0.875" in text
    assert "parameters" not in text


def test_an_evaluation_is_worded_and_its_report_is_named() -> None:
    page = Output(uri="/s/evaluate/0/a/report", files=(File(path="report.html", size=1, sha256="0"),))
    made = manifest("evaluate", {"reward_model/accuracy": 0.9}, outputs={"report": page})
    text = shown(StepRun("evaluate", 9.0, "reused", made))
    assert "90.0 %" in text
    assert text.rstrip().endswith("Report: /s/evaluate/0/a/report/report.html")
