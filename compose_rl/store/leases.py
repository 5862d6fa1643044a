"""Leases: who still wants a job's result, said in the store, where a trainer without API access can look.

A lease is a file that its holder changes again and again. Whoever watches compares contents between two looks
by its own clock, so nobody's clocks have to agree.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import threading
from collections.abc import Callable, Generator

from compose_rl.errors import TransientError, UserError
from compose_rl.store.base import NotFound, Store

__all__ = ["LEASES", "Leases", "kept", "renewal_seconds"]

LEASES = "leases"
"""The folder of a storage in which they lie."""
_RENEWALS = 10
"""So many times a lease is renewed before it could run out."""
_LONGEST_SECONDS = 30.0
_SUFFIX = ".json"


class Leases:
    """The leases on one stage key, ``leases/<key>/<holder>.json``.

    Every method raises :class:`UserError` or :class:`TransientError` as the store does.
    """

    def __init__(self, store: Store, key: str) -> None:
        self.store = store
        self.folder = f"{LEASES}/{key}"
        self._counts = itertools.count(1)
        self._launch = secrets.token_hex(4)  # a holder that starts again counts anew, and still differs

    def renew(self, holder: str) -> None:
        """Take the lease, or show that it is still held: its content changes."""
        content = {"holder": holder, "launch": self._launch, "renewals": next(self._counts)}
        self.store.write(self._path(holder), json.dumps(content).encode())

    def drop(self, holder: str) -> None:
        """Give the lease back; without one nothing happens."""
        self.store.delete(self._path(holder))

    def snapshot(self) -> dict[str, bytes]:
        """The content of every lease by holder: one whose content is another than before was renewed."""
        found: dict[str, bytes] = {}
        for entry in self.store.list(self.folder):
            holder = entry.path.rpartition("/")[2].removesuffix(_SUFFIX)
            with contextlib.suppress(NotFound):  # dropped since the folder was listed
                found[holder] = self.store.read(entry.path)
        return found

    def _path(self, holder: str) -> str:
        return f"{self.folder}/{holder}{_SUFFIX}"


def renewal_seconds(lease_minutes: float) -> float:
    """The time between two renewals of a lease that runs out after ``lease_minutes``."""
    return min(_LONGEST_SECONDS, lease_minutes * 60 / _RENEWALS)


@contextlib.contextmanager
def kept(leases: Leases, holder: str, *, lease_minutes: float, say: Callable[[str], None]) -> Generator[None]:
    """Hold a lease meanwhile: renewed by a thread, dropped at the end.

    What the storage refuses later is told once and tried again; it never ends the job.

    Raises:
        UserError: the storage refuses the very first write, so no job may be started.
    """
    stopped = threading.Event()

    def renew(told: bool) -> bool:
        try:
            leases.renew(holder)
        except (UserError, TransientError) as error:
            if not told:
                say(f"the lease cannot be renewed, trying on: {error}")
            return True
        return False

    def renewing() -> None:
        told = False
        while not stopped.wait(renewal_seconds(lease_minutes)):
            told = renew(told)

    with contextlib.suppress(TransientError):  # the thread tries again
        leases.renew(holder)
    thread = threading.Thread(target=renewing, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()  # a renewal on its way would bring back what is dropped here
        with contextlib.suppress(UserError, TransientError):
            leases.drop(holder)
