"""Environments are brought to their locks, and left alone when they are there."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "tools/environments.py"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with its environments in a folder of this test and what it would run in ``module.ran``."""
    spec = importlib.util.spec_from_file_location("environments", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "PROJECT", tmp_path / "pyproject.toml")
    monkeypatch.setattr(module, "TEST_LOCK", tmp_path / "tests.txt")
    monkeypatch.setattr(module, "find_uv", lambda: "uv")
    monkeypatch.delenv("COMPOSE_RL_ENV_CONTROL", raising=False)
    module.ran = []
    monkeypatch.setattr(module, "run", lambda command: module.ran.append(command[:3]))
    for file in ("pyproject.toml", "tests.txt", "images/control/requirements.txt"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("a")
    (tmp_path / "control").mkdir()
    return module


def commands(script: ModuleType, **options: bool) -> list[str]:
    script.ran.clear()
    script.make("control", **{"tests": False, **options})
    return [" ".join(command[1:]) for command in script.ran]


def test_a_new_environment_gets_lock_project_and_tests(script: ModuleType) -> None:
    assert commands(script, tests=True) == ["venv --quiet", "pip sync", "pip install", "pip install"]
    assert commands(script, tests=True) == []


def test_a_changed_lock_starts_anew(script: ModuleType, tmp_path: Path) -> None:
    commands(script, tests=True)
    (tmp_path / "images/control/requirements.txt").write_text("b")
    assert commands(script)[-2:] == ["pip sync", "pip install"]
    assert commands(script, tests=True) == ["pip install"], "the tests' packages went with the sync"


def test_a_changed_project_is_installed_again_and_nothing_else(script: ModuleType, tmp_path: Path) -> None:
    commands(script)
    (tmp_path / "pyproject.toml").write_text("b")
    assert commands(script) == ["pip install"]


def test_an_install_that_failed_is_done_again(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str]) -> None:
        raise SystemExit("no index")

    with monkeypatch.context() as patch:
        patch.setattr(script, "run", fail)
        with pytest.raises(SystemExit):
            script.make("control", tests=False)
    assert "pip sync" in commands(script)


def test_an_environment_of_the_users_own_is_left_alone(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPOSE_RL_ENV_CONTROL", "/elsewhere")
    assert commands(script, tests=True) == []
