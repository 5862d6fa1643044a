"""What is wrong with a storage, said in one line; and servers that know no conditional writes."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import botocore.auth
import pytest
import server
from botocore.exceptions import ClientError
from flaky import FlakyProxy
from old_server import OldServer, serving

from compose_rl.errors import TransientError, UserError
from compose_rl.store import open_store
from compose_rl.store import s3 as s3_module
from compose_rl.store.s3 import S3Store
from compose_rl.store.s3_errors import key_error, translated

pytestmark = pytest.mark.s3


def refused(code: str, status: int = 400, message: str = "") -> ClientError:
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "PutObject")


@pytest.mark.parametrize(
    "error, words",
    [
        (refused("AccessDenied", 403), "PutObject is denied"),
        (refused("403", 403), "PutObject is denied"),
        (refused("301", 301), "the bucket is in another region; set AWS_REGION to it"),
        (
            refused("AuthorizationHeaderMalformed", message="is wrong; expecting 'eu-west-1'"),
            "set AWS_REGION to it (eu-west-1)",
        ),
        (refused("RequestTimeTooSkewed", 403), "clock"),
        (refused("NotImplemented", 501), "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"),
        (refused("QuotaExceeded", 403), "full"),
        (refused("InvalidToken"), "AWS_SESSION_TOKEN"),
        (refused("Strange", message="why\nnot"), "why not; check the URI, the credentials"),
    ],
)
def test_a_refusal_is_one_line_with_a_remedy(error: ClientError, words: str) -> None:
    with pytest.raises(UserError) as found, translated("s3://b/x"):
        raise error
    assert str(found.value).startswith("s3://b/x: ") and words in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("error", [refused("SlowDown", 503), refused("InternalError", 500), refused("", 429)])
def test_a_busy_server_is_transient(error: ClientError) -> None:
    with pytest.raises(TransientError), translated("s3://b/x"):
        raise error


def test_one_object_of_many_that_could_not_be_deleted_is_an_error() -> None:
    assert isinstance(key_error("s3://b/x", "DeleteObject", {"Code": "AccessDenied"}), UserError)
    assert isinstance(key_error("s3://b/x", "DeleteObject", {"Code": "InternalError"}), TransientError)


def test_a_read_only_bucket_says_what_is_denied(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.running(server.build(), tmp_path, "bucket", options=("--readonly",)) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        store = open_store("s3://bucket/x")
        assert store.list() == []
        for ask in (lambda: store.write("a", b""), lambda: store.create("a", b"")):
            with pytest.raises(UserError, match="PutObject is denied; give the credentials a policy"):
                ask()


def test_a_clock_that_is_wrong_is_said(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = botocore.auth.get_current_datetime

    def late(remove_tzinfo: bool = True) -> datetime.datetime:
        return real(remove_tzinfo) - datetime.timedelta(hours=2)

    monkeypatch.setattr(botocore.auth, "get_current_datetime", late)
    store = open_store(s3)
    for ask in (lambda: store.read("a"), lambda: store.write("a", b""), lambda: store.create("a", b"")):
        with pytest.raises(UserError, match="clock"):
            ask()


def test_the_region_is_the_one_that_every_sdk_reads(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    assert S3Store(s3)._client.meta.region_name == "eu-north-1"


def test_no_password_of_a_url_is_shown(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:hunter2@127.0.0.1:9")
    monkeypatch.setattr(s3_module, "_ATTEMPTS", 1)
    with pytest.raises((TransientError, UserError)) as found:
        open_store(s3).read("x")
    assert "hunter2" not in str(found.value) and "127.0.0.1:9" in str(found.value)


def test_a_server_that_falls_silent_is_transient(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "_READ_SECONDS", 0.2)
    monkeypatch.setattr(s3_module, "_ATTEMPTS", 1)

    class Silent(FlakyProxy):
        def draw(self) -> str | None:
            return "slow"

    proxy = Silent(os.environ["AWS_ENDPOINT_URL"], rate=1, seed=0, host="127.0.0.1", slow_seconds=1)
    with serving(proxy) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(TransientError, match=r"[Rr]ead time"):
            open_store(s3).list()


def test_a_server_with_conditional_writes_is_known_for_it(s3: str) -> None:
    store = S3Store(s3)
    assert store.conditional is None
    assert store.create("a", b"first") and store.conditional is True
    assert not store.create("a", b"second")
    assert store.create("a", b"first")  # one's own, its answer lost
    assert store.read("a") == b"first"


@pytest.mark.parametrize("refuses", [True, False])
def test_on_a_server_without_conditional_writes_what_is_there_stays(
    s3: str, monkeypatch: pytest.MonkeyPatch, refuses: bool
) -> None:
    proxy = OldServer(os.environ["AWS_ENDPOINT_URL"], refuses=refuses)
    with serving(proxy) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        first, second = S3Store(s3), S3Store(s3)
        assert first.create("a", b"first") and first.conditional is False
        assert not second.create("a", b"second")  # it does not know the server yet
        assert not first.create("a", b"third")
        assert first.create("b", b"more")
        assert not second.create("b", b"other")
        assert (first.read("a"), first.read("b")) == (b"first", b"more")
        assert bool(proxy.ignored) != refuses
