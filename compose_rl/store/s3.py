# boto3 comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
"""A store in an S3 bucket, or in anything that speaks S3 (``AWS_ENDPOINT_URL`` or ``S3_ENDPOINT_URL``)."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from compose_rl.errors import TransientError, UserError
from compose_rl.store.base import Entry, NotFound
from compose_rl.store.folder import storage_errors
from compose_rl.store.s3_errors import code, key_error, translated

__all__ = ["S3Store"]

_ATTEMPTS = 5
_PAUSES = (0.1, 0.5, 1.0, 2.0)
"""Seconds between attempts to read an object whose content broke off."""
_CONCURRENT_FILES = 4
_CHUNK_BYTES = 1 << 20
_CONNECT_SECONDS, _READ_SECONDS = 10, 60
_THERE = frozenset({"PreconditionFailed", "412"})
_AT_THE_SAME_TIME = frozenset({"ConditionalRequestConflict", "409"})
_NO_CONDITIONS = frozenset({"NotImplemented", "501"})
T = TypeVar("T")


class S3Store:
    """See :class:`compose_rl.store.base.Store`. Credentials come from boto3's usual chain only."""

    def __init__(self, uri: str) -> None:
        self.bucket, _, prefix = uri.removeprefix("s3://").strip("/").partition("/")
        if not self.bucket:
            raise UserError(f"storage '{uri}': the bucket is missing; write s3://bucket/prefix")
        self._prefix = f"{prefix}/" if prefix else ""
        self.uri = f"s3://{self.bucket}/{prefix}".rstrip("/")
        self.conditional: bool | None = None
        """Whether the server heeds a condition of a write; None: not known yet."""

    @functools.cached_property
    def _client(self) -> Any:
        from boto3.session import Session
        from botocore.config import Config

        endpoint = os.environ.get("S3_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION")  # that of every other SDK; boto3 reads AWS_DEFAULT_REGION alone
        settings = Config(
            retries={"mode": "standard", "max_attempts": _ATTEMPTS},
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            max_pool_connections=4 * _CONCURRENT_FILES,
        )
        with self._errors(""):
            return Session(region_name=region).client("s3", endpoint_url=endpoint, config=settings)

    def read(self, path: str) -> bytes:
        return self._content(path, lambda body: body.read())

    def sha256(self, path: str) -> str:
        def digest(body: Any) -> str:
            found = hashlib.sha256()
            for chunk in body.iter_chunks(_CHUNK_BYTES):
                found.update(chunk)
            return found.hexdigest()

        return self._content(path, digest)

    def _content(self, path: str, consume: Callable[[Any], T]) -> T:
        """What ``consume`` makes of an object's content, read again when the connection breaks in the middle.

        The client itself retries only up to an answer's first byte.
        """
        from botocore.exceptions import BotoCoreError

        for pause in _PAUSES:
            with self._errors(path):
                body = self._client.get_object(Bucket=self.bucket, Key=self._key(path))["Body"]
            with contextlib.suppress(BotoCoreError):
                return consume(body)
            time.sleep(pause)
        with self._errors(path):
            return consume(self._client.get_object(Bucket=self.bucket, Key=self._key(path))["Body"])

    def write(self, path: str, data: bytes) -> None:
        with self._errors(path):
            self._client.put_object(Bucket=self.bucket, Key=self._key(path), Body=data)

    def create(self, path: str, data: bytes) -> bool:
        """See :meth:`compose_rl.store.base.Store.create`.

        Where a server knows no conditional write, it looks before and after: of two writers at the very same
        moment the slower one wins, and each sees which it was.
        """
        if not self.conditional:
            with contextlib.suppress(NotFound):
                return self.read(path) == data
        created = self._create(path, data)
        if self.conditional is None:
            # A server may take the condition and not heed it: the same again shows, and changes nothing.
            self.conditional = created is not None and self._create(path, data) is False
        if created is None:
            self.write(path, data)
        if created is False or not self.conditional:
            # The client retries by itself: what is there may be our own, its answer lost.
            return self.read(path) == data
        return True

    def _create(self, path: str, data: bytes) -> bool | None:
        """Write on the condition that nothing is there; None where the server knows no conditions."""
        from botocore.exceptions import ClientError

        if self.conditional is False:
            return None
        passed = _THERE | _AT_THE_SAME_TIME | _NO_CONDITIONS
        for pause in (*_PAUSES, 0):
            try:
                with self._errors(path, passed):
                    self._client.put_object(
                        Bucket=self.bucket, Key=self._key(path), Body=data, IfNoneMatch="*"
                    )
                return True
            except ClientError as error:
                if code(error) not in _AT_THE_SAME_TIME:
                    return False if code(error) in _THERE else None
            time.sleep(pause)
        raise TransientError(f"{self.uri}/{path}: other writers kept interfering; try again")

    def list(self, prefix: str = "") -> list[Entry]:
        key = self._key(prefix)
        entries: list[Entry] = []
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=key)
            for item in (item for page in pages for item in page.get("Contents", [])):
                name: str = item["Key"]
                inside = not prefix or name == key or name.startswith(key.rstrip("/") + "/")
                if inside and not name.endswith("/"):
                    tag = str(item["ETag"]).strip('"')
                    modified = float(item["LastModified"].timestamp())
                    entries.append(Entry(name.removeprefix(self._prefix), int(item["Size"]), tag, modified))
        return sorted(entries, key=lambda entry: entry.path)

    def folders(self, prefix: str = "") -> list[str]:
        start = self._key(prefix).rstrip("/")
        start = f"{start}/" if start else ""
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=start, Delimiter="/"
            )
            found = [str(item["Prefix"]) for page in pages for item in page.get("CommonPrefixes", [])]
        return sorted(name.removeprefix(start).rstrip("/") for name in found)

    def upload(self, source: Path, path: str) -> None:
        if source.is_file():
            files = {path: source}
        else:
            found = (file for file in source.rglob("*") if file.is_file())
            files = {f"{path}/{file.relative_to(source).as_posix()}": file for file in found}

        def send(item: tuple[str, Path]) -> None:
            with self._errors(item[0]), storage_errors(item[1]):
                self._client.upload_file(str(item[1]), self.bucket, self._key(item[0]))

        _each(send, sorted(files.items()))

    def download(self, path: str, target: Path) -> None:
        entries = self.list(path)
        if not entries:
            raise NotFound(f"{self.uri}/{path}: not found; check the URI")

        def fetch(entry: Entry) -> None:
            below = entry.path[len(path) :].lstrip("/")
            file = target / below if below else target
            with self._errors(entry.path), storage_errors(file):
                file.parent.mkdir(parents=True, exist_ok=True)
                self._client.download_file(self.bucket, self._key(entry.path), str(file))

        _each(fetch, entries)

    def delete(self, path: str) -> None:
        keys = [{"Key": self._key(entry.path)} for entry in self.list(path)]
        for start in range(0, len(keys), 1000):
            with self._errors(path):
                answer = self._client.delete_objects(
                    Bucket=self.bucket, Delete={"Objects": keys[start : start + 1000], "Quiet": True}
                )
            refused = next(iter(answer.get("Errors", [])), None)  # while the request as a whole succeeded
            if refused is not None:
                raise key_error(f"s3://{self.bucket}/{refused.get('Key', '')}", "DeleteObject", refused)

    def _key(self, path: str) -> str:
        return self._prefix + path.strip("/")

    def _errors(
        self, path: str, passed: frozenset[str] = frozenset()
    ) -> contextlib.AbstractContextManager[None]:
        return translated(f"{self.uri}/{path}".rstrip("/"), passed)


def _each(function: Callable[[T], None], items: list[T]) -> None:
    """Call ``function`` for every item, some at a time; the first error ends it."""
    with ThreadPoolExecutor(_CONCURRENT_FILES) as pool:
        for _ in pool.map(function, items):
            pass
