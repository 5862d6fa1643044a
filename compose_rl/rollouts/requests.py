"""Requests that a model can serve. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence

from compose_rl.errors import UserError
from compose_rl.rollouts.types import Request, Sampling

__all__ = ["check_requests"]


def check_requests(
    requests: Sequence[Request], sampling: Sampling, vocab_size: int, max_length: int | None
) -> None:
    """Check that a model can serve requests.

    Raises:
        UserError: an empty prompt, a token outside the vocabulary, or a prompt too long for its answer.
    """
    for number, request in enumerate(requests):
        if not request.prompt:
            raise UserError(f"prompt {number}: has no tokens; give every prompt at least one")
        foreign = [token for token in request.prompt if not 0 <= token < vocab_size]
        if foreign:
            raise UserError(
                f"prompt {number}: token {foreign[0]} is not in the model's vocabulary of {vocab_size};"
                " tokenize prompts with the model's tokenizer"
            )
        length = len(request.prompt) + sampling.max_new_tokens
        if max_length is not None and length > max_length:
            raise UserError(
                f"prompt {number}: {len(request.prompt)} tokens and an answer of max_gen_len="
                f"{sampling.max_new_tokens} are {length}, more than the model's {max_length};"
                " shorten the prompts or lower max_gen_len"
            )
