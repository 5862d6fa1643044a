"""Whether a server's completions can be answers to what it was asked."""

from __future__ import annotations

import math
from collections.abc import Sequence

from compose_rl.errors import UserError
from compose_rl.rollouts.types import Completion, Request, Sampling

__all__ = ["check_completions"]

_ROUNDING = 1e-3


def check_completions(
    completions: Sequence[Sequence[Completion]],
    requests: Sequence[Request],
    sampling: Sampling,
    vocab_size: int,
    version: int,
) -> None:
    """Check answers before anything is learnt from them.

    Raises:
        UserError: too many or too few answers, tokens that the policy does not have, lengths or
            log-probabilities that cannot be, or another version of the weights; with the numbers.
    """
    counts = [len(group) for group in completions]
    expected = [len(request.seeds) for request in requests]
    if counts != expected:
        raise UserError(
            f"completions: {sum(counts)} answers to {len(counts)} prompts came, {sum(expected)} to"
            f" {len(expected)} were asked for; the server does not speak this protocol"
        )
    for group in completions:
        for answer in group:
            wrong = _wrong(answer, sampling, vocab_size, version)
            if wrong:
                raise UserError(f"completions: {wrong}; the server's engine is not the policy's, restart it")


def _wrong(answer: Completion, sampling: Sampling, vocab_size: int, version: int) -> str | None:
    length = len(answer.tokens)
    foreign = [token for token in answer.tokens if not 0 <= token < vocab_size]
    early = [token for token in answer.tokens[:-1] if token in sampling.stop]
    bad = [value for value in answer.logprobs if not (math.isfinite(value) and value <= _ROUNDING)]
    stopped = length > 0 and answer.tokens[-1] in sampling.stop
    cut = length == sampling.max_new_tokens and not stopped
    found = {
        f"an answer is of weights {answer.version}, not {version}": answer.version != version,
        f"an answer has {length} tokens, not 1 to {sampling.max_new_tokens}": (
            not 1 <= length <= sampling.max_new_tokens
        ),
        f"token {foreign[:1]} is not in the vocabulary of {vocab_size}": bool(foreign),
        f"{length} tokens have {len(answer.logprobs)} log-probabilities": len(answer.logprobs) != length,
        f"a log-probability is {bad[:1]}": bool(bad),
        f"an answer goes on after its end token {early[:1]}": bool(early),
        f"an answer of {length} tokens says finished={answer.finished} and ends with {answer.tokens[-1:]}": (
            answer.finished != stopped or not (stopped or cut)
        ),
    }
    return next((message for message, is_so in found.items() if is_so), None)
