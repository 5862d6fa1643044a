"""Asking a server over HTTP: time limits, tries, and a credential that shows nowhere."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from compose_rl.config.reward_types import Endpoint as Settings
from compose_rl.errors import UserError
from compose_rl.rewards.types import Failed, Score

__all__ = ["Endpoint", "Refused", "Unavailable"]

_FIRST_WAIT = 0.5
_AGAIN = frozenset({408, 425, 429})
"""HTTP's statuses, beside 5xx, after which another try may help."""
_LARGEST = 64 * 2**20
"""Bytes of a reply."""


class Refused(Exception):  # noqa: N818 (what happened)
    """The server answers, and not with what was asked for."""


class Unavailable(Exception):  # noqa: N818
    """The server did not answer in all tries."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would take the credential elsewhere."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class Endpoint:
    """A server, with the settings of how to ask it."""

    def __init__(self, settings: Settings) -> None:
        """Raises UserError where the variable that holds the credential is not set."""
        self._settings = settings
        self._headers = {"Content-Type": "application/json"}
        if settings.api_key_env is not None:
            key = os.environ.get(settings.api_key_env, "")
            if not key:
                raise UserError(
                    f"rewards: api_key_env={settings.api_key_env}: this variable is not set where the reward"
                    " runs; set it from a Secret"
                )
            self._headers["Authorization"] = f"Bearer {key}"
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._down = threading.Event()

    def ask_all(
        self, judge: Callable[[Any], list[Score]], parts: Sequence[Any], sizes: list[int]
    ) -> list[Score]:
        """The scores of all parts, several at a time; those of a part whose request failed are Failed.

        Args:
            sizes: answers in each part.
        """
        self._down.clear()

        def one(part: Any, size: int) -> list[Score]:
            try:
                return judge(part)
            except Refused as error:
                return [Failed(str(error))] * size
            except Unavailable as error:
                return [Failed(str(error), transient=True)] * size

        with ThreadPoolExecutor(self._settings.concurrency, "endpoint") as threads:
            found = list(threads.map(one, parts, sizes))
        return [score for scores in found for score in scores]

    def request(self, url: str, document: Any = None) -> Any:
        """The JSON reply to a POST of ``document``, or to a GET where there is none.

        Raises:
            Refused: a status that no other try mends, or a reply that is not JSON.
            Unavailable: no reply after ``max_retries`` further tries.
        """
        body = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(url, data=body, headers=self._headers)
        tries = 1 + self._settings.max_retries
        wait = _FIRST_WAIT
        for number in range(1, tries + 1):
            try:
                return self._once(request)
            except urllib.error.HTTPError as error:
                reason = f"HTTP {error.code}: {_line(error)}"
                if error.code < 500 and error.code not in _AGAIN:
                    raise Refused(f"{url}: {reason}") from None
            except (OSError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            # Once a server is known to be away, nothing else waits for it as long.
            if number == tries or self._down.is_set():
                break
            time.sleep(min(wait, self._settings.max_wait))
            wait *= 2
        self._down.set()
        raise Unavailable(f"{url}: no answer in {number} tries of {self._settings.timeout:g} s ({reason})")

    def _once(self, request: urllib.request.Request) -> Any:
        with self._opener.open(request, timeout=self._settings.timeout) as reply:
            text = reply.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise Refused(f"{request.full_url}: its reply has more than {_LARGEST} bytes")
        try:
            return json.loads(text)
        except ValueError:
            raise Refused(f"{request.full_url}: its reply is not JSON: {text[:100]!r}") from None


def _line(error: urllib.error.HTTPError) -> str:
    """What the server says about a refusal."""
    try:
        return " ".join(error.read(300).decode(errors="replace").split()) or str(error.reason)
    except OSError:
        return str(error.reason)
