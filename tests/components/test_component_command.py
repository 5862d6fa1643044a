"""``compose-rl component``: KFP's executor input in, manifests and KFP's executor output out."""

import json
from pathlib import Path
from typing import Any

import pytest

from compose_rl.cli import main
from compose_rl.commands.component import publish, retried
from compose_rl.commands.executor import Artifact, ExecutorInput
from compose_rl.errors import TransientError, UserError
from compose_rl.store import open_store
from compose_rl.store.lineage import read_manifest
from compose_rl.store.manifest import Manifest
from compose_rl.store.runs import StepRecord, read_record


def executor_input(folder: Path, inputs: dict[str, str], parameters: dict[str, Any]) -> str:
    """What KFP's local runner gives: paths as URIs."""
    parameters = {"run": "run-1", **parameters}
    outputs = {
        name: {
            "artifacts": [{"name": name, "uri": str(folder / "out" / name), "type": {"schemaTitle": title}}]
        }
        for name, title in (("manifest", "system.Artifact"), ("metrics", "system.Metrics"))
    }
    artifacts: dict[str, Any] = {}
    for name, text in inputs.items():
        (folder / name).write_text(text)
        artifacts[name] = {"artifacts": [{"name": name, "uri": str(folder / name)}]}
    return json.dumps(
        {
            "inputs": {"parameterValues": parameters, "artifacts": artifacts},
            "outputs": {"artifacts": outputs, "outputFile": str(folder / "out/executor_output.json")},
        }
    )


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["component", *arguments])
    return int(ended.value.code or 0)


def output(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out/executor_output.json").read_text())["artifacts"]


def manifest(**changed: Any) -> Manifest:
    return Manifest(
        **{
            "stage": "resolve",
            "version": 1,
            "key": "0" * 64,
            "uri": "/s/resolve/0/manifest.json",
            "attempt": "a",
            "config": {},
            "metrics": {"rows": 3.0},
            **changed,
        }
    )


def test_a_step_without_its_source_is_absent(tmp_path: Path) -> None:
    given = executor_input(tmp_path, {}, {"storage": str(tmp_path), "config": "", "step": "r", "uri": ""})
    assert run("resolve", "--executor-input", given, "--setting", "uri=uri", "--needs", "uri") == 0
    assert (tmp_path / "out/manifest").read_text() == "null"
    assert output(tmp_path)["manifest"]["artifacts"][0]["metadata"] == {"state": "absent"}


def test_a_step_for_another_kind_of_run_is_absent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parameters = {"storage": str(tmp_path), "config": "", "step": "vstar", "loss_type": "grpo"}
    inputs = {"model": manifest().to_json(), "prompts": manifest(stage="tokenize").to_json()}
    given = executor_input(tmp_path, inputs, parameters)
    assert run("vstar", "--executor-input", given, "--needs", "loss_type=apo") == 0
    assert (tmp_path / "out/manifest").read_text() == "null"
    assert "absent: no loss_type=apo" in capsys.readouterr().out


def test_a_step_whose_result_is_there_already_is_absent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parameters = {"storage": str(tmp_path), "config": "", "step": "reward_model", "existing": "org/judge"}
    inputs = {"model": manifest().to_json(), "data": manifest(stage="tokenize").to_json()}
    given = executor_input(tmp_path, inputs, parameters)
    assert run("reward_model", "--executor-input", given, "--needs", "existing=") == 0
    assert (tmp_path / "out/manifest").read_text() == "null"
    assert "absent: existing=org/judge" in capsys.readouterr().out


def test_a_step_without_its_input_is_absent_and_hands_on_what_it_was_given(tmp_path: Path) -> None:
    parameters = {"storage": str(tmp_path), "config": "", "step": "export"}
    inputs = {"checkpoint": "null", "otherwise": manifest().to_json()}
    assert run("export", "--executor-input", executor_input(tmp_path, inputs, parameters)) == 0
    assert Manifest.from_json((tmp_path / "out/manifest").read_text(), "") == manifest()


def test_a_stage_runs_with_its_section_and_its_manifest_comes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPOSE_RL_CACHE", str(tmp_path / "cache"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a"}\n')
    parameters = {
        "storage": str(tmp_path / "store"),
        "config": "pin: {split: test}",
        "step": "pin",
        "kind": "dataset",
        "uri": str(rows),
    }
    given = executor_input(tmp_path, {}, parameters)
    settings = ["--setting", "kind=kind", "--setting", "uri=uri"]
    assert run("resolve", "--executor-input", given, *settings) == 0
    made = Manifest.from_json((tmp_path / "out/manifest").read_text(), "")
    assert (made.stage, made.config["split"]) == ("resolve", "test")
    entry = output(tmp_path)["manifest"]["artifacts"][0]
    assert entry["metadata"]["key"] == made.key
    assert entry["uri"] == str(tmp_path / "out/manifest")


def test_bad_configuration_ends_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parameters = {
        "storage": str(tmp_path),
        "config": "r: {knd: model}",
        "step": "r",
        "kind": "model",
        "uri": "m",
    }
    settings = ["--setting", "kind=kind", "--setting", "uri=uri"]
    assert run("resolve", "--executor-input", executor_input(tmp_path, {}, parameters), *settings) == 2
    assert capsys.readouterr().err.strip() == "error: resolve config: unknown key 'knd'; did you mean 'kind'?"
    assert not (tmp_path / "out").exists()


def test_metrics_and_report_are_published(tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.html").write_text("<p>hello")
    document = json.loads(executor_input(tmp_path, {}, {}))
    page = {"name": "report", "uri": str(tmp_path / "out/report"), "type": {"schemaTitle": "system.HTML"}}
    document["outputs"]["artifacts"]["report"] = {"artifacts": [page]}
    made = manifest(outputs={"report": {"uri": str(report), "files": []}})
    publish(ExecutorInput.parse(json.dumps(document)), made, "made")
    assert output(tmp_path)["metrics"]["artifacts"][0]["metadata"] == {"rows": 3.0}
    assert (tmp_path / "out/report").read_text() == "<p>hello"


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("s3://bucket/a/manifest", "/s3/bucket/a/manifest"),
        ("minio://mlpipeline/a", "/minio/mlpipeline/a"),
        ("gs://bucket/a", "/gcs/bucket/a"),
        ("/tmp/a", "/tmp/a"),
    ],
)
def test_artifacts_lie_where_kfp_mounts_them(uri: str, path: str) -> None:
    assert Artifact(name="a", uri=uri, type="").path == Path(path)


def record(folder: Path, step: str) -> StepRecord:
    return read_record(open_store(str(folder)), "run-1", step)


def test_a_step_leaves_its_record_in_the_storage(tmp_path: Path) -> None:
    parameters = {"storage": str(tmp_path), "config": "", "step": "r", "kind": "dataset", "uri": "/nowhere"}
    settings = ["--setting", "kind=kind", "--setting", "uri=uri"]
    assert run("resolve", "--executor-input", executor_input(tmp_path, {}, parameters), *settings) == 2
    found = record(tmp_path, "r")
    assert (found.stage, found.state, found.manifest) == ("resolve", "failed", None)
    assert "nowhere" in found.message
    assert found.config == {"kind": "dataset", "uri": "/nowhere"}

    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    parameters["uri"] = str(tmp_path / "rows.jsonl")
    assert run("resolve", "--executor-input", executor_input(tmp_path, {}, parameters), *settings) == 0
    found = record(tmp_path, "r")
    assert (found.state, found.message) == ("checked", "")
    assert found.manifest == Manifest.from_json((tmp_path / "out/manifest").read_text(), "").uri


def test_an_absent_step_has_a_record_that_says_why(tmp_path: Path) -> None:
    inputs = {"checkpoint": "null", "otherwise": manifest().to_json()}
    given = executor_input(tmp_path, inputs, {"storage": str(tmp_path), "config": "", "step": "export"})
    assert run("export", "--executor-input", given) == 0
    found = record(tmp_path, "export")
    assert (found.state, found.message, found.manifest) == ("absent", "no checkpoint", manifest().uri)


def test_what_may_pass_is_tried_again_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = iter([TransientError("no network"), TransientError("still none"), None])

    def action() -> str:
        error = next(outcomes)
        if error is not None:
            raise error
        return "done"

    assert retried(action, (0.0, 0.0)) == "done"
    assert capsys.readouterr().err.splitlines() == [
        "failed: no network; trying again in 0 s",
        "failed: still none; trying again in 0 s",
    ]


def test_what_does_not_pass_ends_as_transient() -> None:
    def action() -> None:
        raise TransientError("no network")

    with pytest.raises(TransientError, match="no network"):
        retried(action, (0.0,))


def test_bad_input_is_not_tried_again() -> None:
    tries: list[int] = []

    def action() -> None:
        tries.append(1)
        raise UserError("bad")

    with pytest.raises(UserError):
        retried(action, (0.0, 0.0))
    assert len(tries) == 1


def rerun(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["rerun", *arguments])
    return int(ended.value.code or 0)


def test_a_step_that_failed_runs_again_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parameters = {"storage": str(tmp_path), "config": "", "step": "r", "kind": "dataset", "uri": "/nowhere"}
    settings = ["--setting", "kind=kind", "--setting", "uri=uri"]
    assert run("resolve", "--executor-input", executor_input(tmp_path, {}, parameters), *settings) == 2
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    again = ["--storage", str(tmp_path), "--run", "run-1", "--step", "r"]
    assert rerun(*again, "-p", f"uri={tmp_path / 'rows.jsonl'}") == 0
    made = read_manifest(capsys.readouterr().out.strip())
    assert (made.stage, made.config["kind"]) == ("resolve", "dataset")


def test_a_rerun_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert rerun("--run", "run-1") == 2
    assert capsys.readouterr().err == "error: rerun: give a manifest, or --storage, --run and --step\n"
