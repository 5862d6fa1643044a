"""The command line: stages by hand, manifests, reruns, errors in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from compose_rl import cli
from compose_rl.stages import spec as specs
from compose_rl.stages.spec import StageSpec


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.fixture
def data(tmp_path: Path, own_cache: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "p"}\n')
    return path


@pytest.fixture
def toy_by_name(toy: StageSpec, monkeypatch: pytest.MonkeyPatch) -> StageSpec:
    """The toy stage among those that the command line knows."""
    monkeypatch.setitem(sys.modules, "compose_rl.stages.toy.spec", sys.modules["toy_stage"])
    monkeypatch.setattr(specs, "NAMES", (*specs.NAMES, "toy"))
    return toy


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "compose_rl.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_help_names_the_commands_and_imports_nothing_heavy() -> None:
    result = run("--help")
    assert result.returncode == 0
    for name in cli.COMMANDS:
        assert name in result.stdout
    code = (
        "import sys\n"
        "from compose_rl import cli\n"
        "try: cli.main(['stage', 'tokenize', '--storage', '/nowhere', '--set', 'dataset_tipe=preference'])\n"
        "except SystemExit as end: print(end.code)\n"
        "print(sorted({'torch', 'kfp', 'boto3', 'transformers', 'rich'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split("\n")[:2] == ["2", "[]"]
    assert result.stderr.count("\n") == 1


def test_a_stage_by_hand_prints_its_manifest(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = str(tmp_path / "store")
    assert call("stage", "resolve", "--storage", storage, "--set", "kind=dataset", "-p", f"uri={data}") == 0
    uri = capsys.readouterr().out.strip()
    assert json.loads(Path(uri).read_text())["stage"] == "resolve"


@pytest.mark.parametrize("as_file", [True, False])
def test_a_configuration_is_a_file_or_text(
    data: Path, tmp_path: Path, as_file: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"kind: dataset\nuri: {data}\n"
    config = tmp_path / "config.yaml"
    config.write_text(text)
    storage = str(tmp_path / "store")
    assert call("stage", "resolve", "--storage", storage, "--config", str(config) if as_file else text) == 0
    assert json.loads(Path(capsys.readouterr().out.strip()).read_text())["config"]["kind"] == "dataset"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stage", "tokenise", "--storage", "x"], "unknown key 'tokenise'; did you mean 'tokenize'?"),
        (["stage", "resolve", "--storage", "x", "--set", "kind"], "--set kind: write --set key=value"),
        (["stage", "resolve", "--storage", "x", "--config", "no.yaml"], "--config no.yaml: no such file"),
        (["stage", "resolve", "--storage", "x", "--config", "a: [1"], "--config: not YAML"),
        (["stage", "resolve", "--storage", "x", "--config", "- a: 1"], "a mapping is needed, this is list"),
        (["stage", "resolve", "--storage", "x", "-p", "kind=model"], "'uri' is missing; set it"),
        (["stage", "sft", "--storage", "x", "--input", "model=no.json"], "no.json: not found"),
        (["show", "nowhere/manifest.json"], "nowhere/manifest.json: not found; check the path"),
        (["show", "s4://bucket/manifest.json"], "scheme 's4' is not supported"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_corrupt_manifest_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.json").write_text("{")
    assert call("show", str(tmp_path)) == 2
    assert "not a whole manifest" in capsys.readouterr().err


def test_a_dry_run_prints_the_key_and_runs_nothing(
    toy_by_name: StageSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("stage", "toy", "--storage", str(tmp_path / "store"), "--dry-run") == 0
    assert capsys.readouterr().out.strip() == toy_by_name.key(toy_by_name.config(), {})
    assert not (tmp_path / "store").exists()


def test_show_prints_the_lineage_to_its_beginning(
    toy_by_name: StageSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = ["--storage", str(tmp_path / "store")]
    uris: list[str] = []
    for text in ("one", "two", "three"):
        earlier = ["--input", f"earlier={uris[-1]}"] if uris else []
        assert call("stage", "toy", *storage, "--set", f"text={text}", *earlier) == 0
        uris.append(capsys.readouterr().out.strip())
    keys = [Path(uri).parent.name for uri in uris]
    assert call("show", uris[-1]) == 0
    out = capsys.readouterr().out
    assert keys[2] in out
    lines = out.splitlines()
    places = [next(i for i, line in enumerate(lines) if f"toy {key[:12]}" in line) for key in reversed(keys)]
    assert places == sorted(places)
    assert "length" in out and '"three"' in out
    assert "\x1b" not in out

    Path(uris[0]).unlink()
    assert call("show", uris[-1]) == 0
    assert "not found" in capsys.readouterr().out


def test_rerun_takes_the_recorded_inputs_and_the_changed_settings(
    toy_by_name: StageSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = ["--storage", str(tmp_path / "store")]
    call("stage", "toy", *storage, "--set", "text=one")
    first = capsys.readouterr().out.strip()
    call("stage", "toy", *storage, "--set", "text=two", "--input", f"earlier={first}")
    second = capsys.readouterr().out.strip()

    assert call("rerun", second) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == second
    assert "done before" in captured.err

    assert call("rerun", second, "-p", "text=three") == 0
    third = json.loads(Path(capsys.readouterr().out.strip()).read_text())
    assert third["config"]["text"] == "three"
    assert third["inputs"]["earlier"]["uri"] == first
    assert (Path(third["outputs"]["text"]["uri"]) / "text.txt").read_text() == "onethree"

    document = json.loads(Path(first).read_text())
    Path(first).write_text(json.dumps({**document, "key": "f" * 64}))
    assert call("rerun", second) == 2
    assert "the past run read" in capsys.readouterr().err


def test_a_failed_job_ends_with_its_exit_code(
    toy_by_name: StageSpec, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    storage = ["--storage", str(tmp_path / "store")]
    assert call("stage", "toy", *storage, "--set", "fail=user") == 2
    assert capfd.readouterr().err == "error: toy: fail=user: asked for; leave it out\n"
    assert call("stage", "toy", *storage, "--set", "fail=bug") == 1
    err = capfd.readouterr().err
    assert "Traceback" in err and "error: toy: ZeroDivisionError: asked for" in err
