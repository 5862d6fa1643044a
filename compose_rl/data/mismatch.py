"""Mismatched answers for the KL term of KTO (Ethayarajh et al., arXiv 2402.01306, section 4.1).

Sample i is paired with an answer of sample (i + 1) mod N (docs/decisions/0003). A preference pair lends its
chosen answer if its index is even, its rejected one if it is odd, so that both kinds are in the estimate.
"""

from __future__ import annotations

from collections.abc import Callable

from compose_rl.data.shards import Sample

__all__ = ["lend_answer"]


def lend_answer(max_length: int) -> Callable[[Sample, Sample], Sample]:
    """A function that gives a sample the prompt with another's answer as ``kl_pieces``.

    Prompt and foreign answer may be longer together than any sample: then the end of that answer is left
    out, as it only serves an estimate.
    """

    def pair(sample: Sample, other: Sample) -> Sample:
        prompt = sample["pieces"][0]
        answers = other["pieces"][1:]
        answer = answers[other["index"] % len(answers)]
        return sample | {"kl_pieces": (prompt, answer[: max(1, max_length - len(prompt))])}

    return pair
