"""A store in a folder of a local or shared file system."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Generator
from pathlib import Path

from compose_rl.errors import TransientError, UserError
from compose_rl.store.base import Entry, NotFound

__all__ = ["FolderStore", "no_space", "storage_errors"]

_USER = {
    errno.ENOSPC: "the disk is full; free space or choose another storage",
    errno.EDQUOT: "the disk quota is used up; free space or choose another storage",
    errno.EFBIG: "the file is larger than this process may write; raise the limit (ulimit -f)",
    errno.EACCES: "permission denied; choose a place that this user may use",
    errno.EPERM: "not permitted here; choose a folder on a file system with hard links, or s3://",
    errno.EOPNOTSUPP: "not supported here; choose a folder on a file system with hard links, or s3://",
    errno.EROFS: "the file system is read-only; choose another storage",
    errno.ENOTDIR: "a part of the path is a file; choose another path",
    errno.EEXIST: "a part of the path is a file; choose another path",
    errno.EISDIR: "this is a folder; give a file",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}
_TRANSIENT = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EBUSY}
_TEMPORARY = ".tmp-"


@contextlib.contextmanager
def storage_errors(where: str | Path) -> Generator[None]:
    """Turn what the operating system says about a file into one line with a remedy."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"{error.filename or where}: not found; check the path") from error
    except OSError as error:
        place = error.filename or where
        if error.errno in _USER:
            raise UserError(f"{place}: {_USER[error.errno]}") from error
        if error.errno in _TRANSIENT:
            raise TransientError(f"{place}: {error.strerror}; try again") from error
        raise


def no_space(error: BaseException | None) -> bool:
    """Whether a full disk or quota is what an error comes down to."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


class FolderStore:
    """See :class:`compose_rl.store.base.Store`."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.uri = str(self.root)

    def read(self, path: str) -> bytes:
        with storage_errors(self.root / path):
            return (self.root / path).read_bytes()

    def sha256(self, path: str) -> str:
        with storage_errors(self.root / path), (self.root / path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def write(self, path: str, data: bytes) -> None:
        target = self.root / path
        with storage_errors(target), self._written(target, data) as temporary:
            temporary.replace(target)
            _sync_folder(target.parent)

    def create(self, path: str, data: bytes) -> bool:
        target = self.root / path
        with storage_errors(target), self._written(target, data) as temporary:
            # A hard link appears whole and fails where a name is taken: rename would silently replace it.
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            _sync_folder(target.parent)
            return True

    def list(self, prefix: str = "") -> list[Entry]:
        start = self.root / prefix
        with storage_errors(start):
            if start.is_file():
                return [self._entry(start)]
            found = (Path(folder) / name for folder, _, names in os.walk(start) for name in names)
            entries: list[Entry] = []
            for path in found:
                with contextlib.suppress(FileNotFoundError):  # removed since its folder was read
                    if not path.name.startswith(_TEMPORARY):
                        entries.append(self._entry(path))
        return sorted(entries, key=lambda entry: entry.path)

    def folders(self, prefix: str = "") -> list[str]:
        try:
            with storage_errors(self.root / prefix):
                return sorted(path.name for path in (self.root / prefix).iterdir() if path.is_dir())
        except NotFound:
            return []

    def upload(self, source: Path, path: str) -> None:
        self._copy(source, self.root / path)

    def download(self, path: str, target: Path) -> None:
        self._copy(self.root / path, target)

    def delete(self, path: str) -> None:
        target = self.root / path
        with storage_errors(target):
            if target.is_dir():
                shutil.rmtree(target, ignore_errors=True)
            else:
                target.unlink(missing_ok=True)

    def _entry(self, path: Path) -> Entry:
        status = path.stat()
        tag = f"{status.st_size}-{status.st_mtime_ns}"
        return Entry(path.relative_to(self.root).as_posix(), status.st_size, tag, status.st_mtime)

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        with storage_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(source, target)

    @staticmethod
    @contextlib.contextmanager
    def _written(target: Path, data: bytes) -> Generator[Path]:
        """A file beside ``target`` that holds ``data`` on the disk; gone afterwards."""
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
