"""Whether a storage can be written and read, refuses to overwrite, and has the time that is here."""

from __future__ import annotations

import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial

from compose_rl.errors import UserError
from compose_rl.launch.preflight.finding import Check, Unclear
from compose_rl.store import NotFound, join, open_store

__all__ = ["checks", "clock"]

_FOLDER = "preflight"
_REFUSED_SECONDS = 15 * 60
"""S3 refuses requests whose clock differs by more."""
_WARNED_SECONDS = 5 * 60
_TIMEOUT_SECONDS = 10


def checks(uri: str) -> Iterator[Check]:
    """Everything about one storage; leaves nothing in it."""
    yield Check("storage", partial(_write_read_list_delete, uri))
    yield Check("storage: manifests", partial(_create_once, uri))
    if uri.startswith("s3://"):
        yield Check("storage: clock", partial(clock, endpoint()))


def endpoint() -> str:
    """The URL of the S3 server that the environment names, else AWS's of the region."""
    given = os.environ.get("S3_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return given or f"https://s3.{region}.amazonaws.com"


def _write_read_list_delete(uri: str) -> str:
    store = open_store(uri)
    name, data = f"{_FOLDER}/{secrets.token_hex(8)}", secrets.token_bytes(1 << 10)
    where = join(store.uri, name)
    store.write(name, data)
    try:
        if store.read(name) != data:
            raise UserError(f"{where}: other bytes came back than were written; check the storage")
        if name not in [entry.path for entry in store.list(_FOLDER)]:
            raise UserError(f"{where}: was written and is not listed; check the storage's consistency")
    finally:
        store.delete(name)
    try:
        store.read(name)
    except NotFound:
        return f"{store.uri}: write, read, list, delete"
    raise UserError(
        f"{where}: was deleted and is still there; check the policy, and versioning of the bucket"
    )


def _create_once(uri: str) -> str:
    store = open_store(uri)
    name = f"{_FOLDER}/{secrets.token_hex(8)}"
    try:
        first, second = store.create(name, b"first"), store.create(name, b"second")
        kept = store.read(name)
    finally:
        store.delete(name)
    if not first or second or kept != b"first":
        raise UserError(
            f"{store.uri}: the server lets a second write overwrite the first (it ignores If-None-Match);"
            " use one that knows conditional writes, for instance AWS, MinIO or Ceph of a late version"
        )
    if getattr(store, "conditional", True) is False:
        return "a second write is refused by looking first: the server knows no conditional writes"
    return "a second write is refused, so that a result appears once"


def clock(url: str) -> str:
    """Whether the server's time is that of this machine.

    Raises:
        UserError: they differ by minutes.
        Unclear: the server does not say what time it is.
    """
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            said = answer.headers.get("Date")
    except urllib.error.HTTPError as error:  # without credentials: it is the time that matters
        said = error.headers.get("Date")
    except (OSError, ValueError) as error:
        raise Unclear(f"{url}: {error}") from None
    if not said:
        raise Unclear(f"{url}: the server does not say its time")
    seconds = abs((datetime.now(UTC) - parsedate_to_datetime(said)).total_seconds())
    if seconds > _WARNED_SECONDS:
        raise UserError(
            f"{url}: its clock and this machine's differ by {seconds:.0f} s, and S3 refuses requests from"
            f" {_REFUSED_SECONDS} s on; set the clocks by NTP"
        )
    return f"within {max(1, round(seconds))} s"
