"""A stage through its real entry point: attempts, manifests, inputs, checkpoints, faults."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from compose_rl.errors import StageFailed, UserError
from compose_rl.launch import run_stage
from compose_rl.launch.attempts import new_attempt
from compose_rl.stages.job import Job, JobFile
from compose_rl.stages.spec import StageSpec
from compose_rl.store.folder import FolderStore
from compose_rl.store.manifest import Manifest


def test_a_stage_writes_its_outputs_and_a_manifest_that_describes_them(
    toy: StageSpec, tmp_path: Path
) -> None:
    outcome = run_stage(toy, {"text": "abc"}, {}, str(tmp_path / "store"))
    manifest = outcome.manifest
    assert not outcome.cached
    folder = tmp_path / "store" / "toy" / manifest.key
    assert manifest == Manifest.from_json((folder / "manifest.json").read_text(), "manifest")
    assert manifest.uri == str(folder / "manifest.json")
    assert manifest.metrics == {"length": 3}
    assert manifest.config["text"] == "abc"
    output = manifest.output("text")
    assert output.uri == str(folder / manifest.attempt / "text")
    # printf abc | sha256sum
    assert [(file.path, file.size, file.sha256[:12]) for file in output.files] == [
        ("text.txt", 3, "ba7816bf8f01")
    ]
    # Neither scratch nor checkpoints stay.
    assert sorted(path.name for path in (folder / manifest.attempt).iterdir()) == ["job.json", "text"]


def test_a_result_that_is_there_is_not_made_again(toy: StageSpec, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first = run_stage(toy, {"runs": str(runs)}, {}, str(tmp_path / "store"))
    second = run_stage(toy, {"runs": str(runs), "pause": 9}, {}, str(tmp_path / "store"))
    assert (second.cached, second.manifest) == (True, first.manifest)
    assert len(runs.read_text().splitlines()) == 1


def test_an_input_is_read_and_recorded(toy: StageSpec, tmp_path: Path) -> None:
    storage = str(tmp_path / "store")
    first = run_stage(toy, {"text": "abc"}, {}, storage).manifest
    second = run_stage(toy, {"text": "def"}, {"earlier": first}, storage).manifest
    assert (Path(second.output("text").uri) / "text.txt").read_text() == "abcdef"
    assert second.inputs["earlier"].model_dump() == {"stage": "toy", "key": first.key, "uri": first.uri}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ab", r"text\.txt: has 2 bytes, 3 expected \(cut short or changed\)"),
        ("abd", r"text\.txt: SHA-256 is a52d159f262b…, ba7816bf8f01… expected"),  # printf abd | sha256sum
        (None, r"text\.txt: missing \(3 bytes expected\)"),
    ],
    ids=["cut short", "changed", "missing"],
)
def test_a_damaged_input_is_named_with_the_remedy(
    toy: StageSpec, tmp_path: Path, content: str | None, message: str
) -> None:
    storage = str(tmp_path / "store")
    first = run_stage(toy, {"text": "abc"}, {}, storage).manifest
    path = Path(first.output("text").uri) / "text.txt"
    path.write_text(content) if content is not None else path.unlink()
    with pytest.raises(UserError, match=rf"{message}.*; remove {first.uri} and run stage 'toy' again"):
        run_stage(toy, {}, {"earlier": first}, storage)


def test_a_user_error_of_the_job_is_the_launchers(toy: StageSpec, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^toy: fail=user: asked for; leave it out$"):
        run_stage(toy, {"fail": "user"}, {}, str(tmp_path / "store"))


def test_a_bug_in_the_job_leaves_its_traceback_and_no_manifest(
    toy: StageSpec, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StageFailed, match="ZeroDivisionError: asked for"):
        run_stage(toy, {"fail": "bug"}, {}, str(tmp_path / "store"))
    assert "Traceback" in capfd.readouterr().err
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_killed_job_is_told_apart(toy: StageSpec, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="ended by SIGKILL; out of memory"):
        run_stage(toy, {"fail": "kill"}, {}, str(tmp_path / "store"))


def test_a_failed_attempt_does_not_stand_in_the_way(toy: StageSpec, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        run_stage(toy, {"fail": "user"}, {}, str(tmp_path / "store"))
    assert not run_stage(toy, {}, {}, str(tmp_path / "store")).cached


def test_a_corrupt_manifest_is_one_clear_line(toy: StageSpec, tmp_path: Path) -> None:
    manifest = run_stage(toy, {}, {}, str(tmp_path / "store")).manifest
    Path(manifest.uri).write_text('{"stage": "to')
    with pytest.raises(UserError, match=r"not a whole manifest.*delete it and run the stage again") as caught:
        run_stage(toy, {}, {}, str(tmp_path / "store"))
    assert "\n" not in str(caught.value)
    Path(manifest.uri).write_text("{}")
    with pytest.raises(UserError, match="'stage' is missing"):
        run_stage(toy, {}, {}, str(tmp_path / "store"))


def test_two_launchers_that_want_the_same_key_get_the_same_whole_result(
    toy: StageSpec, tmp_path: Path
) -> None:
    storage = str(tmp_path / "store")
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: run_stage(toy, {"pause": 1.0}, {}, storage).manifest, range(2)))
    assert both[0] == both[1]
    folder = tmp_path / "store" / "toy" / both[0].key
    assert sorted(path.name for path in folder.iterdir()) == [both[0].attempt, "manifest.json"]
    assert run_stage(toy, {}, {"earlier": both[0]}, storage).manifest.metrics["length"] == 5


def _job(toy: StageSpec, storage: Path, attempt: str) -> Job:
    key = toy.key(toy.config(), {})
    document = JobFile(stage="toy", key=key, attempt=attempt, storage=str(storage), config={}, inputs={})
    return Job(toy, document)


def test_checkpoints_of_earlier_attempts_come_newest_first(toy: StageSpec, tmp_path: Path) -> None:
    names = ["20260101T000000000-aa", "20260102T000000000-bb", "20260103T000000000-cc"]
    jobs = [_job(toy, tmp_path, name) for name in names]
    for job in (jobs[0], jobs[2]):
        folder = Path(job.checkpoints)
        folder.mkdir(parents=True)
        (folder / "ep0-ba1.pt").write_bytes(b"state")
    later = _job(toy, tmp_path, "20260104T000000000-dd")
    assert later.earlier_checkpoints() == [jobs[2].checkpoints, jobs[0].checkpoints]
    assert jobs[1].earlier_checkpoints() == [jobs[0].checkpoints]


def test_attempts_sort_by_time_and_never_repeat() -> None:
    names = []
    for _ in range(20):
        names.append(new_attempt())
        time.sleep(0.002)
    assert names == sorted(names)
    assert len(set(names)) == len(names)


def test_a_job_made_for_other_code_is_refused(toy: StageSpec, tmp_path: Path) -> None:
    document = JobFile(stage="toy", key="0" * 64, attempt="a", storage=str(tmp_path), config={}, inputs={})
    with pytest.raises(UserError, match="the code has changed since this job was made"):
        Job(toy, document)


def test_a_launcher_killed_at_any_moment_leaves_a_whole_manifest_or_none(
    toy: StageSpec, tmp_path: Path
) -> None:
    """Ten SIGKILLs at random moments of the whole life of a stage, import and manifest included."""
    chance = random.Random(0)
    code = (
        "import sys; from toy_stage import SPEC; from compose_rl.launch import run_stage;"
        "run_stage(SPEC, {'text': sys.argv[1]}, {}, sys.argv[2])"
    )
    storage = tmp_path / "store"

    def command(text: str) -> list[str]:
        return [sys.executable, "-c", code, text, str(storage)]

    started = time.monotonic()
    subprocess.run(command("measure"), check=True, capture_output=True)
    usual = time.monotonic() - started
    for n in range(10):
        process = subprocess.Popen(command(f"text {n}"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.3, 1.0) * usual)
        process.kill()
        process.wait()
    for path in storage.rglob("manifest.json"):
        manifest = Manifest.from_json(path.read_text(), str(path))
        (file,) = manifest.output("text").files
        assert (Path(manifest.output("text").uri) / file.path).stat().st_size == file.size
    for n in range(10):
        final = run_stage(toy, {"text": f"text {n}"}, {}, str(storage)).manifest
        assert (Path(final.output("text").uri) / "text.txt").read_text() == f"text {n}"


def test_a_job_ends_with_its_launcher(toy: StageSpec, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    code = (
        "import sys; from toy_stage import SPEC; from compose_rl.launch import run_stage;"
        f"run_stage(SPEC, {{'pause': 60, 'runs': {str(runs)!r}}}, {{}}, {str(tmp_path / 'store')!r})"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    _wait_for(runs.exists)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    assert children
    launcher.kill()
    launcher.wait()
    _wait_for(lambda: not any(_alive(int(child)) for child in children))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def test_a_full_disk_is_one_clear_line_and_leaves_no_manifest(toy: StageSpec, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small file system can only be mounted by root")
    try:
        with pytest.raises(UserError, match="the disk is full; free space or choose another storage"):
            FolderStore(disk).write("large", bytes(1 << 20))
        with pytest.raises(UserError, match="the disk is full; free space or choose another storage"):
            run_stage(toy, {"text": "x", "times": 1 << 17}, {}, str(disk))
        assert not list(disk.rglob("manifest.json"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_attempt_overtaken_removes_its_files(toy: StageSpec, tmp_path: Path) -> None:
    """The slower of two attempts takes the result of the faster."""
    slow = threading.Thread(target=run_stage, args=(toy, {"pause": 3.0}, {}, str(tmp_path)))
    slow.start()
    key = toy.key(toy.config(), {})
    _wait_for(lambda: list(tmp_path.glob(f"toy/{key}/*/job.json")))
    (slow_attempt,) = [path.parent for path in tmp_path.glob(f"toy/{key}/*/job.json")]
    fast = run_stage(toy, {}, {}, str(tmp_path)).manifest
    slow.join()
    assert fast.attempt != slow_attempt.name
    assert json.loads(Path(fast.uri).read_text())["attempt"] == fast.attempt
    assert not slow_attempt.exists()
