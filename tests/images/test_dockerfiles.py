"""Images: built from the locks, run by nobody in particular, nothing in them that only building needs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ("control", "train", "rollout")


def instructions(name: str) -> list[tuple[str, str]]:
    """(instruction, arguments) with continued lines joined and comments left out."""
    lines = (ROOT / "images" / name / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", text)
    parts = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(word.upper(), rest.strip()) for word, _, rest in parts]


def final_stage(name: str) -> list[tuple[str, str]]:
    found = instructions(name)
    last = max(i for i, (word, _) in enumerate(found) if word == "FROM")
    return found[last:]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_base_is_an_argument_of_every_stage(name: str) -> None:
    found = instructions(name)
    assert found[0][0] == "ARG"
    assert found[0][1].startswith("BASE=")
    assert [rest.split()[0] for word, rest in found if word == "FROM"] == ["${BASE}", "${BASE}"]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_user_is_a_number_other_than_root(name: str) -> None:
    users = [rest for word, rest in final_stage(name) if word == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_built_from_the_lock_of_the_local_environment(name: str) -> None:
    commands = [rest for word, rest in instructions(name) if word == "RUN"]
    lock = f"images/{name}/requirements.txt"
    installs = [command for command in commands if "uv pip sync" in command]
    assert len(installs) == 1
    assert installs[0].endswith(f" {lock}")
    assert "--require-hashes" in installs[0]
    assert "--compile-bytecode" in installs[0]
    assert (ROOT / lock).is_file()


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_nothing_is_installed_in_the_final_stage(name: str) -> None:
    assert "RUN" not in [word for word, _ in final_stage(name)]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_labels_and_environment(name: str) -> None:
    stage = final_stage(name)
    arguments = {rest.partition("=")[0] for word, rest in stage if word == "ARG"}
    assert {"COMMIT", "VERSION"} <= arguments
    labels = " ".join(rest for word, rest in stage if word == "LABEL")
    assert 'org.opencontainers.image.revision="${COMMIT}"' in labels
    assert 'org.opencontainers.image.version="${VERSION}"' in labels
    variables = " ".join(rest for word, rest in stage if word == "ENV").split()
    assert f"COMPOSE_RL_ENV={name}" in variables
    for writable in ("HOME", "XDG_CACHE_HOME", "HF_HOME"):
        assert any(variable.startswith(f"{writable}=/tmp") for variable in variables)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_what_is_copied_is_there_and_not_ignored(name: str) -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for word, rest in instructions(name):
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(Path(source).match(pattern) for pattern in kept), source


@pytest.mark.parametrize("name", [*(f"images/{name}" for name in ENVIRONMENTS), "tests"])
def test_locks_pin_everything_with_hashes_and_no_address(name: str) -> None:
    text = (ROOT / name / "requirements.txt").read_text()
    assert "://" not in text
    assert "--index" not in text
    entries = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert entries
    for entry in entries:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[^ ]+( ; .+)? \\", entry), entry
