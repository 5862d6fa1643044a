"""Keep what libraries say about themselves out of a stage's log, so that what concerns the user is seen."""

from __future__ import annotations

import logging
import warnings

__all__ = ["quiet_libraries"]

_TALK = (
    "pkg_resources is deprecated",  # LLM Foundry's import of it
    "The `use_auth_token` argument is deprecated",  # LLM Foundry's calls of transformers
)


def quiet_libraries() -> None:
    """Drop warnings about how one library calls another."""
    for start in _TALK:
        warnings.filterwarnings("ignore", message=start)
    logging.getLogger("transformers.modeling_utils").addFilter(_not_of_tied_head)


def _not_of_tied_head(record: logging.LogRecord) -> bool:
    # LLM Foundry first builds the model without weights, where a tied output layer looks newly initialized.
    return "newly initialized: ['lm_head.weight']" not in record.getMessage()
