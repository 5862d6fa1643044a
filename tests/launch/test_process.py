"""The process backend: interpreters, several processes, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compose_rl.config.resources import Resources
from compose_rl.environments import interpreter
from compose_rl.errors import UserError
from compose_rl.launch import run_stage
from compose_rl.launch.process import command
from compose_rl.stages.attempt import JobFile
from compose_rl.stages.spec import StageSpec, load

TWO = Resources(procs_per_node=2)


def job(procs: int) -> JobFile:
    return JobFile(stage="sft", key="k", attempt="a", storage="/s", config={}, inputs={}, procs=procs)


def test_one_process_is_plain_and_several_go_through_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPOSE_RL_ENV_TRAIN", sys.prefix)
    python = f"{sys.prefix}/bin/python"
    spec = load("sft")
    assert command(spec, job(1)) == [python, "-m", spec.entry, "--job", "/s/sft/k/a/job.json"]
    assert command(spec, job(2)) == [
        python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        "-m", spec.entry, "--job", "/s/sft/k/a/job.json",
    ]  # fmt: skip


def test_an_environment_is_found_by_variable_by_image_or_beside_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPOSE_RL_ENV_TRAIN", sys.prefix)
    assert interpreter("train") == f"{sys.prefix}/bin/python"
    monkeypatch.setenv("COMPOSE_RL_ENV_TRAIN", str(tmp_path))
    with pytest.raises(UserError, match=r"COMPOSE_RL_ENV_TRAIN=.*: has no bin/python"):
        interpreter("train")
    monkeypatch.delenv("COMPOSE_RL_ENV_TRAIN")
    monkeypatch.setenv("COMPOSE_RL_ENV", "train")
    assert interpreter("train") == sys.executable
    monkeypatch.delenv("COMPOSE_RL_ENV")
    with pytest.raises(UserError, match=r"environment 'nowhere' is not installed.*COMPOSE_RL_ENV_NOWHERE"):
        interpreter("nowhere")


def test_procs_for_a_stage_of_one_process_is_refused(own_cache: Path, tmp_path: Path) -> None:
    from compose_rl.stages.resolve.spec import SPEC

    with pytest.raises(UserError, match="procs_per_node=2, but this stage runs as one process"):
        run_stage(
            SPEC, {"kind": "model", "uri": "x"}, {}, str(tmp_path), resources=Resources(procs_per_node=2)
        )


def launcher(toy: StageSpec, tmp_path: Path, runs: Path, seconds: float) -> subprocess.Popen[str]:
    code = (
        "from toy_stage import SPEC; from compose_rl.launch import run_stage\n"
        f"run_stage(SPEC, {{'pause': {seconds}, 'runs': {str(runs)!r}}}, {{}}, {str(tmp_path / 'store')!r})"
    )
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGTERM, "TransientError: told to stop (SIGTERM)"),
        # Python turns SIGINT into KeyboardInterrupt, after which it ends by that signal.
        (signal.SIGINT, "toy: ended by SIGINT"),
    ],
)
def test_a_signal_reaches_the_job(toy: StageSpec, tmp_path: Path, number: signal.Signals, said: str) -> None:
    runs = tmp_path / "runs"
    process = launcher(toy, tmp_path, runs, 60)
    end = time.monotonic() + 30
    while not runs.exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert said in err
    for child in children:
        assert not Path(f"/proc/{child}").exists()
    assert not list(tmp_path.rglob("manifest.json"))


def test_two_processes_make_one_manifest_and_failures_keep_their_message(
    toy: StageSpec, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    runs = tmp_path / "runs"
    manifest = run_stage(
        toy, {"runs": str(runs)}, {}, str(tmp_path / "store"), resources=Resources(procs_per_node=2)
    ).manifest
    assert sorted(line.split()[1] for line in runs.read_text().splitlines()) == ["0", "1"]
    assert (Path(manifest.output("text").uri) / "text.txt").read_text() == "hello"
    with pytest.raises(UserError, match=r"^toy: fail=user: asked for; leave it out$"):
        run_stage(
            toy,
            {"text": "x", "fail": "user"},
            {},
            str(tmp_path / "store"),
            resources=Resources(procs_per_node=2),
        )
