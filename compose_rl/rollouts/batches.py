"""Generation by transformers' own loop, in whole batches, for models whose cache is their own.

A recurrent state is such a cache, or a sliding window. Tokens are chosen as in
:mod:`compose_rl.rollouts.decoding`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from compose_rl.rollouts.sampling import draw, uniform_numbers
from compose_rl.rollouts.types import Completion, Request, Sampling

__all__ = ["decode_batches"]


def decode_batches(
    model: PreTrainedModel,
    requests: Sequence[Request],
    sampling: Sampling,
    *,
    rows: int,
    version: int,
    done: Callable[[int], None],
) -> list[list[Completion]]:
    """Answers to each request, in order; see :func:`compose_rl.rollouts.decoding.decode`."""
    # Prompts of like length stand together, so that little is padded.
    order = sorted(range(len(requests)), key=lambda index: len(requests[index].prompt))
    places = [(index, seed) for index in order for seed in requests[index].seeds]
    answers: list[list[Completion]] = [[] for _ in requests]
    for start in range(0, len(places), rows):
        batch = places[start : start + rows]
        prompts = [requests[index].prompt for index, _ in batch]
        written = _answer(model, prompts, [seed for _, seed in batch], sampling, version)
        for (index, _), answer in zip(batch, written, strict=True):
            answers[index].append(answer)
        done(len(batch))
    return answers


class _Choice(LogitsProcessor):
    """Chooses each row's next token by the row's own numbers, and leaves no other to choose from."""

    def __init__(self, seeds: Sequence[int], sampling: Sampling, width: int, device: torch.device) -> None:
        numbers = [uniform_numbers(seed, sampling.max_new_tokens) for seed in seeds]
        self.numbers = torch.stack(numbers).to(device)
        self.sampling = sampling
        self.width = width
        self.tokens: list[Tensor] = []
        """Of each step: [rows]."""
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        numbers = self.numbers[:, input_ids.size(1) - self.width]
        tokens, logprobs = draw(scores.clone(), numbers, self.sampling)
        self.tokens.append(tokens)
        self.logprobs.append(logprobs)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)


def _answer(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    version: int,
) -> list[Completion]:
    """An answer to each prompt, written together."""
    input_ids, mask = _left_padded(prompts)
    choice = _Choice(seeds, sampling, input_ids.size(1), model.device)
    model.generate(
        input_ids=input_ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            eos_token_id=list(sampling.stop) or None,
            pad_token_id=0,
        ),
        use_model_defaults=False,  # nothing that changes the distribution
        logits_processor=LogitsProcessorList([choice]),
    )
    tokens = torch.stack(choice.tokens, dim=1).tolist()
    logprobs = torch.stack(choice.logprobs, dim=1).tolist()
    return [_ended(*row, sampling.stop, version) for row in zip(tokens, logprobs, strict=True)]


def _left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Tokens int64 [n, longest] with zeros before them, and their mask: 1 for tokens."""
    width = max(map(len, prompts))
    input_ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        mask[row, width - len(prompt) :] = 1
    return input_ids, mask


def _ended(tokens: list[int], logprobs: list[float], stop: tuple[int, ...], version: int) -> Completion:
    """The answer up to and with its first stop token."""
    end = next((index for index, token in enumerate(tokens) if token in stop), None)
    length = len(tokens) if end is None else end + 1
    return Completion(tuple(tokens[:length]), tuple(logprobs[:length]), end is not None, version)
