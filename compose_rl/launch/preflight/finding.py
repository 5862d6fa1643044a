"""A check and what it finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from compose_rl.errors import TransientError, UserError
from compose_rl.launch.kubernetes.refusals import Forbidden

__all__ = ["Check", "Finding", "Unclear", "Verdict", "finding"]


class Verdict(StrEnum):
    """OK: as needed. NO: a run would fail. UNCLEAR: it may not be looked at, or matters to some runs only."""

    OK = "ok"
    NO = "no"
    UNCLEAR = "?"


class Unclear(Exception):  # noqa: N818 (an answer, not a fault)
    """Neither good nor bad, or not to be seen from here; the message is one line."""


class Check(NamedTuple):
    """Something to look at."""

    what: str
    look: Callable[[], str]
    """Returns what is there; raises UserError or TransientError where it will not do, with the remedy."""


@dataclass(frozen=True)
class Finding:
    """What was found."""

    what: str
    verdict: Verdict
    said: str
    """One line: what is there, or how to mend it."""


def finding(check: Check) -> Finding:
    """What a check finds; it raises nothing that a check is meant to raise."""
    try:
        return Finding(check.what, Verdict.OK, check.look())
    except (Unclear, Forbidden) as reason:
        return Finding(check.what, Verdict.UNCLEAR, str(reason))
    except (UserError, TransientError) as reason:
        return Finding(check.what, Verdict.NO, str(reason))
