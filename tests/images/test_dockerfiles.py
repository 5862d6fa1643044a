"""Images: built from the locks, run by nobody in particular, nothing in them that only building needs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ("control", "train", "rollout")
DOCKERFILE = (ROOT / "images/Dockerfile").read_text()


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) with continued lines joined and comments left out."""
    text = "\n".join(line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", text)
    parts = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(word.upper(), rest.strip()) for word, _, rest in parts]


def final_stage() -> list[tuple[str, str]]:
    found = instructions()
    last = max(i for i, (word, _) in enumerate(found) if word == "FROM")
    return found[last:]


def variables() -> dict[str, str]:
    words = " ".join(rest for word, rest in final_stage() if word == "ENV").split()
    return dict(word.split("=", 1) for word in words)


def test_base_is_an_argument_of_every_stage() -> None:
    stages = [rest.split()[0] for word, rest in instructions() if word == "FROM"]
    built = {rest.split()[-1] for word, rest in instructions() if word == "FROM" and " AS " in rest}
    assert len(stages) > 1
    assert set(stages) <= {"${BASE}", *built}
    assert stages[-1] == "${BASE}"


def test_user_is_a_number_other_than_root() -> None:
    users = [rest for word, rest in final_stage() if word == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_built_from_the_lock_of_the_local_environment(name: str) -> None:
    found = instructions()
    installs = [rest for word, rest in found if word == "RUN" and "uv pip sync" in rest]
    assert len(installs) == 1
    assert installs[0].endswith(" /src/requirements.txt")
    assert "--require-hashes" in installs[0]
    assert "--compile-bytecode" in installs[0]
    copied = [rest.split()[0] for word, rest in found if word == "COPY" and "requirements.txt" in rest]
    assert copied == ["images/${ENVIRONMENT}/requirements.txt"]
    assert (ROOT / copied[0].replace("${ENVIRONMENT}", name)).is_file()


def test_nothing_is_installed_in_the_final_stage() -> None:
    assert "RUN" not in [word for word, _ in final_stage()]


def test_a_change_of_code_leaves_the_layer_of_the_environment_alone() -> None:
    found = instructions()
    end = next(
        i for i, (word, rest) in enumerate(found) if word == "FROM" and rest == "environment AS project"
    )
    environment = " ".join(rest for word, rest in found[:end] if word == "COPY")
    assert "compose_rl" not in environment
    layers = [rest for word, rest in final_stage() if word == "COPY"]
    assert layers[0].startswith("--from=environment ")
    assert layers[1].startswith("--from=project ")


def test_labels_and_environment() -> None:
    stage = final_stage()
    arguments = {rest for word, rest in stage if word == "ARG"}
    assert {"ENVIRONMENT", "VERSION", "COMMIT", "IMAGE"} <= arguments
    labels = " ".join(rest for word, rest in stage if word == "LABEL")
    assert 'org.opencontainers.image.revision="${COMMIT}"' in labels
    assert 'org.opencontainers.image.version="${VERSION}"' in labels
    assert variables()["COMPOSE_RL_ENV"] == "${ENVIRONMENT}"
    assert variables()["COMPOSE_RL_COMMIT"] == "${COMMIT}"
    assert variables()["COMPOSE_RL_IMAGE"] == "${IMAGE}"


@pytest.mark.parametrize("name", ["HOME", "XDG_CACHE_HOME", "HF_HOME"])
def test_what_is_written_goes_below_tmp(name: str) -> None:
    assert variables()[name].startswith("/tmp")


def test_a_user_without_a_name_has_one_for_libraries_that_ask() -> None:
    assert variables()["USER"]


def test_settings_of_a_package_index_are_secrets_of_the_build() -> None:
    for word, rest in instructions():
        if word == "RUN" and ("pip install" in rest or "pip sync" in rest):
            assert "--mount=type=secret," in rest
        assert "index" not in rest.lower()
        assert "://" not in rest


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_what_is_copied_is_there_and_not_ignored(name: str) -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.replace("${ENVIRONMENT}", name).split()[:-1]:
                assert (ROOT / source).exists(), source
                assert Path(source).parts[0] in kept, source


@pytest.mark.parametrize("name", [*(f"images/{name}" for name in ENVIRONMENTS), "tests"])
def test_locks_pin_everything_with_hashes_and_no_address(name: str) -> None:
    text = (ROOT / name / "requirements.txt").read_text()
    assert "://" not in text
    assert "--index" not in text
    entries = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert entries
    for entry in entries:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[^ ]+( ; .+)? \\", entry), entry


def test_one_vllm_and_one_torch_for_gpu_and_cpu() -> None:
    folder = ROOT / "images/rollout"
    locks = [(folder / f"requirements{on}.txt").read_text() for on in ("", "-cpu")]
    for package in (r"vllm(?:-cpu)?", "torch"):
        found = [re.findall(rf"^{package}==(\S+)", lock, flags=re.MULTILINE) for lock in locks]
        assert found[0] == found[1] != []
