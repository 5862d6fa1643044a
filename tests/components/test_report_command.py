"""``compose-rl report``: the end of a run, from what its steps left."""

import json
from pathlib import Path

import pytest

from compose_rl.cli import main
from compose_rl.store import open_store
from compose_rl.store.manifest import File, Manifest, Output
from compose_rl.store.runs import Recorder

FAILURE = "reward_model config: lr=-1: it must be positive"


@pytest.fixture
def storage(tmp_path: Path) -> str:
    """One run that went well, and one that did not."""
    store = open_store(str(tmp_path / "store"))
    page = Output(uri="/s/evaluate/0/a/report", files=(File(path="report.html", size=1, sha256="0"),))
    place = f"{store.uri}/evaluate/0/manifest.json"
    made = Manifest(
        stage="evaluate",
        version=1,
        key="0" * 64,
        uri=place,
        attempt="a",
        config={},
        metrics={"reward_model/accuracy": 0.9},
        outputs={"report": page},
    )
    store.write("evaluate/0/manifest.json", made.to_json().encode())
    Recorder(store, "good", step="sft", stage="sft").end("absent", message="no data")
    Recorder(store, "good", step="evaluate", stage="evaluate").end("made", manifest=place)
    Recorder(store, "bad", step="reward_model", stage="reward_model").end("failed", message=FAILURE)
    with Recorder(store, "bad", step="sft", stage="sft").running(config={}, inputs={}, resources={}):
        pass  # as if it had been killed
    return store.uri


def report(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["report", *arguments])
    return int(ended.value.code or 0)


def test_steps_figures_and_the_page(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert report("--storage", storage, "--run", "good") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "# Run good: succeeded"
    assert "| sft | absent | 0:00 |" in lines
    assert "| evaluate | made | 0:00 |" in lines
    assert "| Reward model: accuracy on held-out pairs | 90.0 % |" in lines
    assert "Report: /s/evaluate/0/a/report/report.html" in lines


def test_failures_and_steps_that_were_killed_are_told(
    storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report("--storage", storage, "--run", "bad") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "# Run bad: failed"
    assert f"**reward_model**: {FAILURE}" in lines
    assert "**sft**: ended from outside, without a word" in lines


def test_as_a_step_it_writes_its_artifact(storage: str, tmp_path: Path) -> None:
    artifact = {"name": "report", "uri": str(tmp_path / "out/report")}
    status = {"state": "SUCCEEDED", "pipelineTaskName": "exit-handler-1"}
    given = {
        "inputs": {"parameterValues": {"storage": storage, "run": "good", "step": "r", "status": status}},
        "outputs": {
            "artifacts": {"report": {"artifacts": [artifact]}},
            "outputFile": str(tmp_path / "out/executor_output.json"),
        },
    }
    assert report("--executor-input", json.dumps(given)) == 0
    assert (tmp_path / "out/report").read_text().startswith("# Run good: succeeded\n")
    written = json.loads((tmp_path / "out/executor_output.json").read_text())
    assert written["artifacts"]["report"]["artifacts"][0]["uri"] == artifact["uri"]


def test_a_run_that_is_not_there_is_named(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert report("--storage", storage, "--run", "gone") == 2
    assert "run gone: no step of it wrote to" in capsys.readouterr().err
    assert report("--storage", storage) == 2
    assert "--storage or --run is missing" in capsys.readouterr().err
