"""Microbatches: every row once, budgets kept, ranks in step, counts that weight a loss rightly."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compose_rl.data import microbatches


def ragged(sizes: list[tuple[int, int]], lent: bool = False) -> dict[str, torch.Tensor]:
    """Row i holds the number i in all its tokens."""
    lengths = torch.tensor(sizes)
    rows = torch.arange(len(sizes))
    batch = {
        "lengths": lengths,
        "tokens": rows.repeat_interleave(lengths.sum(1)),
        "index": rows,
        "weight": torch.ones(len(sizes)),
        "ref_chosen": -rows.float(),
    }
    if lent:
        batch |= {"kl_lengths": lengths.flip(1), "kl_tokens": rows.repeat_interleave(lengths.sum(1))}
    return batch


def instruction(sizes: list[int]) -> dict[str, torch.Tensor]:
    tokens = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    positions = torch.cat([torch.arange(size) for size in sizes])
    labels = torch.where(positions == 0, -100, tokens)
    return {
        "position_ids": positions[None],
        "input_ids": tokens[None],
        "labels": labels[None],
        "attention_mask": torch.ones_like(tokens)[None],
        "weight": torch.ones(len(sizes)),
    }


SIZES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=9)


@given(SIZES, st.integers(1, 40) | st.none(), st.integers(1, 5), st.booleans())
@settings(max_examples=50, deadline=None, derandomize=True)
def test_every_row_is_in_one_microbatch_with_all_that_belongs_to_it(
    sizes: list[tuple[int, int]], budget: int | None, rows: int, lent: bool
) -> None:
    parts = microbatches.split_ragged(ragged(sizes, lent), rows, budget)
    assert sorted(i for part in parts for i in part["index"].tolist()) == list(range(len(sizes)))
    for part in parts:
        index = part["index"]
        assert torch.equal(part["tokens"], index.repeat_interleave(part["lengths"].sum(1)))
        assert part["lengths"].tolist() == [list(sizes[i]) for i in index.tolist()]
        assert torch.equal(part["ref_chosen"], -index.float())
        if lent:
            assert torch.equal(part["kl_tokens"], index.repeat_interleave(part["kl_lengths"].sum(1)))
        if budget is None:
            assert len(index) <= rows
        else:
            assert part["tokens"].numel() <= budget or len(index) == 1
    assert sum(microbatches.samples(part) for part in parts) == len(sizes)


@given(st.lists(st.integers(2, 9), min_size=1, max_size=9), st.integers(1, 30) | st.none(), st.integers(1, 5))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_every_packed_sample_is_in_one_microbatch(sizes: list[int], budget: int | None, rows: int) -> None:
    batch = instruction(sizes)
    parts = microbatches.split_instruction(batch, rows, budget)
    found = {}
    for part in parts:
        index = part["input_ids"][0][part["position_ids"][0] == 0].tolist()
        again = instruction([sizes[i] for i in index])
        assert torch.equal(part["position_ids"], again["position_ids"])
        found |= {i: (part["input_ids"] == i).sum().item() for i in index}
    assert found == dict(enumerate(sizes))
    assert sum(microbatches.loss_tokens(part) for part in parts) == microbatches.loss_tokens(batch)
    assert microbatches.loss_tokens(batch) == sum(size - 1 for size in sizes)


def test_a_mismatched_pair_counts_towards_the_budget() -> None:
    batch = ragged([(1, 1), (1, 1)]) | {
        "kl_lengths": torch.tensor([[1, 5], [1, 5]]),
        "kl_tokens": torch.zeros(12),
    }
    assert len(microbatches.split_ragged(batch, 2, 6)) == 2
    assert len(microbatches.split_ragged(batch, 2, 12)) == 1


def test_ranks_run_the_same_number_of_microbatches_and_the_added_ones_count_for_nothing() -> None:
    """Two processes: rank 0 has rows for three microbatches, rank 1 for one."""
    program = textwrap.dedent(
        """
        import sys
        sys.path.insert(0, "tests/data")
        import torch
        from composer.utils import dist, get_device
        from compose_rl.data import microbatches
        from test_microbatches import instruction, ragged

        dist.initialize_dist(get_device("cpu"), timeout=60)
        rank = dist.get_global_rank()
        parts = microbatches.split_ragged(ragged([(4, 4)] * 3 if rank == 0 else [(1, 2), (1, 1)]), 2, 8)
        packed = microbatches.split_instruction(instruction([8, 8, 8] if rank == 0 else [3, 2]), 2, 8)
        counts = [(microbatches.samples(p), p["index"].tolist(), p["tokens"].tolist()) for p in parts]
        tokens = [
            (microbatches.loss_tokens(p), p["input_ids"].tolist(), p["labels"].tolist()) for p in packed
        ]
        told = [None, None]
        torch.distributed.all_gather_object(told, (counts, tokens))
        if rank == 1:
            (first, _), (second, second_packed) = told
            assert [count for count, _, _ in first] == [1, 1, 1], first
            assert second == [(2, [0, 1], [0, 0, 0, 1, 1]), (0, [1], [1, 1]), (0, [1], [1, 1])], second
            own, *added = second_packed
            assert own[0] == 3
            # A copy of the shortest sample, with a single label left so that a mean over labels exists.
            assert added == [(0, [[1, 1]], [[-100, 1]])] * 2, added
        """
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "--no-python",
    ]
    done = subprocess.run(
        [*command, sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
