"""Log-probabilities and rewards of given answers, in right-padded batches, for any model of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

__all__ = ["answer_logprobs", "rewards"]

Tokens = list[int]
Done = Callable[[int], None]

TOKEN_BUDGET = 4096
"""Slots of a batch, padding included."""


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """Indices in batches of like lengths, each within the budget (or alone)."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[index] > TOKEN_BUDGET:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _right_padded(sequences: list[Tokens], device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(map(len, sequences))
    input_ids = torch.zeros(len(sequences), width, dtype=torch.int64)
    mask = torch.zeros_like(input_ids)
    for row, sequence in enumerate(sequences):
        input_ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return input_ids.to(device), mask.to(device)


@torch.inference_mode()
def answer_logprobs(
    model: PreTrainedModel,
    prompts: list[Tokens],
    answers: list[Tokens],
    *,
    temperature: float = 1.0,
    done: Done = lambda n: None,
) -> Tensor:
    """log p(answer | prompt): the sum over the answer's tokens, float64 [N].

    Args:
        temperature: divides the logits.
        done: told after each batch how many sequences it had.
    """
    sequences = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    sums = torch.zeros(len(sequences), dtype=torch.float64)
    for batch in _batches([len(s) for s in sequences]):
        input_ids, mask = _right_padded([sequences[i] for i in batch], model.device)
        logits = model(input_ids=input_ids, attention_mask=mask, use_cache=False).logits
        for row, index in enumerate(batch):
            start, end = len(prompts[index]), len(sequences[index])
            # The token at position t is predicted at t - 1.
            predicted = torch.log_softmax(logits[row, start - 1 : end - 1].float() / temperature, dim=-1)
            targets = input_ids[row, start:end, None]
            sums[index] = predicted.gather(1, targets).double().sum().cpu()
        done(len(batch))
    return sums


@torch.inference_mode()
def rewards(model: PreTrainedModel, sequences: list[Tokens], done: Done = lambda n: None) -> Tensor:
    """The reward at each sequence's last token, float64 [N].

    Takes sequence classifiers of transformers and Compose RL's reward models. The last token is found by the
    mask: transformers looks for the last one that is not padding, wrong where the end token pads.
    """
    scores = torch.zeros(len(sequences), dtype=torch.float64)
    for batch in _batches([len(s) for s in sequences]):
        input_ids, mask = _right_padded([sequences[i] for i in batch], model.device)
        scores[batch] = _last_scores(model, input_ids, mask).double().cpu()
        done(len(batch))
    return scores


def _last_scores(model: PreTrainedModel, input_ids: Tensor, mask: Tensor) -> Tensor:
    if not isinstance(model.score, torch.nn.Module):
        return model.score(input_ids=input_ids, attention_mask=mask)
    hidden = model.base_model(input_ids=input_ids, attention_mask=mask, use_cache=False).last_hidden_state
    last = mask.sum(dim=1) - 1
    return model.score(hidden[torch.arange(len(last), device=last.device), last]).squeeze(-1)
