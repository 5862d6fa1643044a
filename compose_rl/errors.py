"""What can go wrong, and the exit code that tells a launcher what to do about it."""

from __future__ import annotations

__all__ = ["EXIT_BUG", "EXIT_TRANSIENT", "EXIT_USER", "StageFailed", "TransientError", "UserError"]

EXIT_USER = 2
"""Bad input: running again changes nothing."""
EXIT_TRANSIENT = 75
"""EX_TEMPFAIL: the outside world failed; running again may succeed."""
EXIT_BUG = 1
"""Everything else; comes with a traceback."""


class UserError(Exception):
    """Bad input. The message is one line that names the thing, the value it has, and the remedy."""

    exit_code = EXIT_USER


class TransientError(Exception):
    """The outside world failed (network, storage, preemption) after retries inside the stage."""

    exit_code = EXIT_TRANSIENT


class StageFailed(Exception):  # noqa: N818 (what happened, said as the two above say it)
    """A job ended without a result through a bug or a signal; its own output says more."""

    exit_code = EXIT_BUG
