"""What an iteration found out: its answers, of all ranks, with all that is known of each token.

Answers stand group by group: ``generations`` answers to a prompt, one after the other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from compose_rl.config.minibatches import answers_per_row, rank_share
from compose_rl.core.aggregation import expand
from compose_rl.data.collate import ANSWER_TOKENS, Batch
from compose_rl.errors import UserError

__all__ = ["Experience"]

_PLAIN = ("generations", "kl_coef", "aggregation")


@dataclass(frozen=True, eq=False, kw_only=True)
class Experience:
    """The answers of P prompts, G to each, n = P * G in all, with A tokens together.

    What is None is not known (yet): :func:`dataclasses.replace` fills it in. All ranks' parts know the same.
    """

    generations: int
    """G."""
    prompt_index: Tensor
    """int64 [P]: of the prompt in its dataset."""
    prompt_lengths: Tensor
    """int64 [P], at least 1."""
    prompt_tokens: Tensor
    """int64: the prompts one after the other."""
    answer_lengths: Tensor
    """int64 [n], at least 1."""
    answer_tokens: Tensor
    """int64 [A]."""
    answer_weights: Tensor
    """float32 [n]: 0 for an answer that is not learnt from, else 1."""
    answer_rewards: Tensor
    """float32 [n]."""
    engine_logps: Tensor | None = None
    """float32 [A], as all that follow."""
    old_logps: Tensor | None = None
    ref_logps: Tensor | None = None
    old_values: Tensor | None = None
    returns: Tensor | None = None
    advantages: Tensor | None = None
    token_weights: Tensor | None = None
    vstar: Tensor | None = None
    """float32 [P]."""
    kl_coef: float | None = None
    """Weight of KL to the reference in the loss."""
    aggregation: str = "sequence_mean"
    """``loss_aggregation``: a mean over tokens is one over those of a minibatch."""

    def __post_init__(self) -> None:
        answers, tokens = len(self.prompt_index) * self.generations, int(self.answer_lengths.sum())
        sizes = {
            "prompt_lengths": len(self.prompt_index),
            "prompt_tokens": int(self.prompt_lengths.sum()),
            "answer_lengths": answers,
            "answer_weights": answers,
            "answer_rewards": answers,
            "answer_tokens": tokens,
            "vstar": len(self.prompt_index),
            **dict.fromkeys(ANSWER_TOKENS, tokens),
        }
        for name, size in sizes.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != (size,):
                raise ValueError(f"{name} has shape {tuple(value.shape)}, expected ({size},)")

    def __len__(self) -> int:
        """Answers."""
        return len(self.answer_lengths)

    def to_bytes(self) -> bytes:
        """As safetensors, with what is no tensor in its header."""
        tensors = {
            name: value.contiguous() for name in _tensors() if (value := getattr(self, name)) is not None
        }
        plain = {name: getattr(self, name) for name in _PLAIN}
        return safetensors.torch.save(tensors, {"experience": json.dumps(plain)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Experience:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        return cls(**json.loads(header["__metadata__"]["experience"]), **safetensors.torch.load(data))

    def order(self, seed: int, iteration: int, epoch: int) -> list[int]:
        """The groups in the order of a pass: whole groups are shuffled, so that prompts are shared in it.

        Args:
            epoch: number of the pass in its iteration.
        """
        return np.random.default_rng([seed, iteration, epoch]).permutation(len(self.prompt_index)).tolist()

    def minibatches(self, size: int) -> int:
        """Minibatches of ``size`` answers that a pass has.

        Raises:
            UserError: the answers do not make up whole minibatches.
        """
        if not len(self) or len(self) % size:
            raise UserError(
                f"{len(self)} answers of an iteration make up no whole minibatches of"
                f" global_train_batch_size={size}; use a divisor of {len(self)}"
            )
        return len(self) // size

    def minibatch(self, order: Sequence[int], number: int, size: int, rank: int, world: int) -> Batch:
        """A rank's share of a minibatch, as docs/architecture.md lays it out.

        Args:
            order: groups in the order of the pass, of :meth:`order`.
            number: of the minibatch in the pass.
            size: answers of the whole minibatch.

        Raises:
            UserError: ``size`` divides by neither the ranks nor the answers there are.
        """
        if not 0 <= number < self.minibatches(size):
            raise IndexError(f"minibatch {number} of {self.minibatches(size)}")
        share = rank_share(size, world)
        k = answers_per_row(self.generations, share)
        members = self._members(order, number, size)
        return self._rows(members[rank * share : (rank + 1) * share : k], k)

    def weighed(self, batch: Batch, order: Sequence[int], number: int, size: int) -> Batch:
        """A rank's share with the weights of the whole minibatch, whose answers every rank knows.

        Where none of them is learnt from, all count (``counted``) and none weighs anything: a mean over no
        answers would be 0/0, this one is 0 whatever the loss.

        Args: those of :meth:`minibatch`, which gave ``batch``.
        """
        members = self._members(order, number, size)
        counts = self.answer_weights[members].double()
        answers, tokens = float(counts.sum()), float((counts * self.answer_lengths[members]).sum())
        if not answers:
            return batch | {"counted": torch.ones_like(batch["answer_weights"])}
        if self.aggregation == "token_mean":
            weights = batch["answer_weights"].flatten() * (answers / tokens)
            return batch | {"token_weights": expand(weights, batch["lengths"][:, 1:].flatten())}
        return batch

    def _members(self, order: Sequence[int], number: int, size: int) -> list[int]:
        """The answers of a minibatch of all ranks."""
        each = self.generations
        places = range(number * size, (number + 1) * size)
        return [order[place // each] * each + place % each for place in places]

    def _rows(self, firsts: Sequence[int], k: int) -> Batch:
        """Rows of ``k`` answers, the first of which are given; all ``k`` are of one group."""
        answers = torch.tensor(firsts)[:, None] + torch.arange(k)
        groups = answers[:, 0] // self.generations
        prompt_parts = self.prompt_tokens.split(self.prompt_lengths.tolist())
        sizes = self.answer_lengths.tolist()
        answer_parts = self.answer_tokens.split(sizes)
        pieces: list[Tensor] = []
        for group, row in zip(groups.tolist(), answers.tolist(), strict=True):
            pieces += [prompt_parts[group], *(answer_parts[answer] for answer in row)]
        batch: Batch = {
            "tokens": torch.cat(pieces),
            "lengths": torch.cat([self.prompt_lengths[groups, None], self.answer_lengths[answers]], 1),
            "index": self.prompt_index[groups],
            "weight": torch.ones(len(answers)),
            "answer_weights": self.answer_weights[answers],
            "answer_rewards": self.answer_rewards[answers],
        }
        picked = answers.flatten().tolist()
        for name in ANSWER_TOKENS:
            value = getattr(self, name)
            if value is not None:
                parts = value.split(sizes)
                batch[name] = torch.cat([parts[answer] for answer in picked])
        if self.vstar is not None:
            batch["vstar"] = self.vstar[groups]
        if self.kl_coef is not None:
            batch["kl_coef"] = torch.full((len(answers),), self.kl_coef)
        return batch


def _tensors() -> list[str]:
    return [field.name for field in fields(Experience) if field.name not in _PLAIN]
