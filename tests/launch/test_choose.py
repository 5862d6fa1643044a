"""Which backend runs a stage's job."""

from __future__ import annotations

import sys

import pytest

from compose_rl.config.resources import Resources
from compose_rl.errors import UserError
from compose_rl.launch.choose import Cluster, backend_for
from compose_rl.launch.process import ProcessBackend
from compose_rl.stages.spec import load

IN_A_POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
SFT, EXPORT = load("sft"), load("export")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPOSE_RL_ENV_TRAIN", sys.prefix)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPOSE_RL_ENV_TRAIN", "/nowhere")


@pytest.mark.parametrize("backend", ["process", "pod"])
def test_processes_where_they_are_asked_for(backend: str) -> None:
    assert isinstance(backend_for(SFT, Resources(backend=backend), environ=IN_A_POD), ProcessBackend)


@pytest.mark.parametrize("environ", [{}, IN_A_POD])
def test_processes_where_the_environment_is(installed: None, environ: dict[str, str]) -> None:
    assert isinstance(backend_for(SFT, Resources(), environ=environ), ProcessBackend)


def test_a_job_where_only_the_cluster_is(elsewhere: None) -> None:
    with pytest.raises(UserError, match="a pytorchjob of sft needs one"):
        backend_for(SFT, Resources(), environ=IN_A_POD)


def test_neither_is_said_by_the_process_backend(elsewhere: None) -> None:
    assert isinstance(backend_for(SFT, Resources(), environ={}), ProcessBackend)


@pytest.mark.parametrize("backend", ["pytorchjob", "trainjob"])
def test_a_job_without_an_image_is_refused(installed: None, backend: str) -> None:
    with pytest.raises(
        UserError, match=r"^resources: image is not set.*'train'.*--resources 'image: \.\.\.'"
    ):
        backend_for(SFT, Resources(backend=backend))


@pytest.mark.parametrize("resources", [{"image": "a"}, {}])
def test_a_job_with_an_image_asks_for_the_client(resources: dict[str, str]) -> None:
    try:
        import kubernetes  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="use the environment 'control'"):
            backend_for(SFT, Resources(backend="pytorchjob", **resources), Cluster(image="b"))


def test_a_stage_without_a_gpu_never_becomes_a_job() -> None:
    assert isinstance(backend_for(EXPORT, Resources(backend="pytorchjob")), ProcessBackend)
