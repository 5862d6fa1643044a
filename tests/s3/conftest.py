"""A bucket on a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import server


@pytest.fixture(scope="session")
def _s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    try:
        program = server.build()
    except server.NoGoError as reason:
        pytest.skip(str(reason))
    with server.running(program, tmp_path_factory.mktemp("s3"), "bucket") as url:
        yield url


@pytest.fixture
def s3(_s3_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The URI of an empty prefix of this test alone; the environment has what reaching it takes."""
    for name, value in {**server.CREDENTIALS, "AWS_REGION": server.REGION}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", server.REGION)
    monkeypatch.setenv("AWS_ENDPOINT_URL", _s3_server)
    monkeypatch.delenv("S3_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    return f"s3://bucket/{request.node.name.replace('[', '-').rstrip(']')}"
