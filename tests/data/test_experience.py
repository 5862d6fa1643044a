"""An iteration's answers: nothing is lost or moved on the way to minibatches and microbatches."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compose_rl.core.packing import pack
from compose_rl.data import microbatches
from compose_rl.data.collate import ANSWER_TOKENS, Batch
from compose_rl.data.experience import Experience
from compose_rl.errors import UserError


def experience(generations: int, prompts: list[int], answers: list[int]) -> Experience:
    """Token ``j`` of answer ``i`` is ``1000 * i + j``, which its figures repeat, each in a way of its own.

    Args:
        prompts, answers: their lengths. Prompt ``p`` is of sample ``p + 100`` and made of ``-p - 1``.
    """
    tokens = torch.cat([1000 * number + torch.arange(length) for number, length in enumerate(answers)])
    groups = torch.arange(len(prompts))
    return Experience(
        generations=generations,
        prompt_index=groups + 100,
        prompt_lengths=torch.tensor(prompts),
        prompt_tokens=(-groups - 1).repeat_interleave(torch.tensor(prompts)),
        answer_lengths=torch.tensor(answers),
        answer_tokens=tokens,
        answer_weights=(torch.arange(len(answers)) % 3 > 0).float(),
        answer_rewards=torch.arange(len(answers)).float(),
        vstar=groups / 2,
        kl_coef=0.25,
        **{name: tokens + (place + 1) / 10 for place, name in enumerate(ANSWER_TOKENS)},
    )


def check_rows(batch: Batch, generations: int) -> list[int]:
    """Check that everything in the batch stands with its answer, as ``experience`` made it.

    Returns:
        The numbers of its answers.
    """
    packed = pack(batch["tokens"], batch["lengths"])
    k = batch["lengths"].shape[1] - 1
    numbers = batch["answer_rewards"].long()
    assert numbers.shape == batch["answer_weights"].shape == (len(batch["lengths"]), k)
    group = numbers // generations
    assert bool((group == group[:, :1]).all())
    assert torch.equal(batch["index"], group[:, 0] + 100)
    assert torch.equal(batch["vstar"], group[:, 0] / 2)
    assert torch.equal(batch["kl_coef"], torch.full((len(group),), 0.25))
    prompts = packed.input_ids[packed.branch_ids == 0]
    assert torch.equal(prompts, (-group[:, 0] - 1).repeat_interleave(batch["lengths"][:, 0]))
    assert torch.equal(packed.targets // 1000, numbers.flatten()[packed.answer_ids])
    starts = packed.answer_lengths.cumsum(0) - packed.answer_lengths
    places = torch.arange(len(packed.targets)) - starts[packed.answer_ids]
    assert torch.equal(packed.targets % 1000, places)
    if bool(batch["weight"].all()):
        assert torch.equal(batch["answer_weights"], (numbers % 3 > 0).float())
    for place, name in enumerate(ANSWER_TOKENS):
        if name != "token_weights" or bool(batch["weight"].all()):
            torch.testing.assert_close(batch[name], packed.targets + (place + 1) / 10, rtol=0, atol=0)
    return numbers.flatten().tolist()


@st.composite
def iterations(draw: st.DrawFn) -> tuple[Experience, int, int]:
    """An iteration, the size of its minibatches and a number of ranks that it can be shared by."""
    world = draw(st.integers(1, 4))
    share = draw(st.integers(1, 6))
    generations = draw(st.integers(1, 6))
    size = world * share
    # The smallest number of groups that make up whole minibatches, or twice or three times that.
    groups = torch.lcm(torch.tensor(size), torch.tensor(generations)).item() // generations
    groups *= draw(st.integers(1, 3))
    lengths = st.integers(1, 4)
    prompts = draw(st.lists(lengths, min_size=groups, max_size=groups))
    answers = draw(st.lists(lengths, min_size=groups * generations, max_size=groups * generations))
    return experience(generations, prompts, answers), size, world


@given(iterations(), st.integers(0, 5))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_minibatches_share_out_the_answers_among_any_ranks(
    drawn: tuple[Experience, int, int], epoch: int
) -> None:
    whole, size, world = drawn
    order = whole.order(17, 3, epoch)
    seen: list[list[int]] = []
    for number in range(whole.minibatches(size)):
        shares = [
            check_rows(whole.minibatch(order, number, size, rank, world), whole.generations)
            for rank in range(world)
        ]
        assert {len(share) for share in shares} == {size // world}
        seen.append([answer for share in shares for answer in share])
        assert seen[-1] == check_rows(whole.minibatch(order, number, size, 0, 1), whole.generations)
    flat = [answer for minibatch in seen for answer in minibatch]
    assert sorted(flat) == list(range(len(whole)))
    # Groups stay whole: the answers to a prompt follow each other.
    assert [answer // whole.generations for answer in flat[:: whole.generations]] == order


@given(iterations(), st.integers(1, 5), st.integers(2, 40) | st.none())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_microbatch_has_each_figure_with_its_token(
    drawn: tuple[Experience, int, int], rows: int, budget: int | None
) -> None:
    whole, size, world = drawn
    batch = whole.minibatch(whole.order(1, 1, 1), 0, size, 0, world)
    parts = microbatches.split_ragged(batch, rows, budget)
    answers = [answer for part in parts for answer in check_rows(part, whole.generations)]
    assert sorted(answers) == sorted(batch["answer_rewards"].flatten().tolist())
    assert sum(microbatches.answers(part) for part in parts) == microbatches.answers(batch) == size // world
    counted = [microbatches.count_answers(part) for part in parts]
    assert sum(count["loss_generating"] for count in counted) == sum(answer % 3 > 0 for answer in answers)
    assert sum(count["total"] for count in counted) == sum(len(part["tokens"]) for part in parts)


def test_passes_differ_in_their_order_and_a_pass_is_always_the_same() -> None:
    whole = experience(2, [1] * 9, [1] * 18)
    orders = [whole.order(1, 1, 0), whole.order(1, 1, 1), whole.order(1, 2, 0), whole.order(2, 1, 0)]
    assert all(sorted(order) == list(range(9)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert whole.order(1, 1, 0) == orders[0]


def test_a_row_has_as_many_answers_as_divide_groups_and_shares() -> None:
    whole = experience(4, [2] * 6, [1] * 24)
    order = list(range(6))
    assert whole.minibatch(order, 0, 24, 0, 1)["lengths"].tolist() == [[2, 1, 1, 1, 1]] * 6
    assert whole.minibatch(order, 0, 12, 0, 2)["lengths"].tolist() == [[2, 1, 1]] * 3
    assert whole.minibatch(order, 0, 3, 0, 1)["lengths"].tolist() == [[2, 1]] * 3


def test_sizes_that_do_not_divide_are_refused() -> None:
    whole = experience(2, [1] * 4, [1] * 8)
    with pytest.raises(UserError, match=r"8 answers .* global_train_batch_size=3; use a divisor of 8"):
        whole.minibatches(3)
    with pytest.raises(UserError, match="global_train_batch_size=4 cannot be shared evenly by 3 processes"):
        whole.minibatch([0, 1, 2, 3], 0, 4, 0, 3)


def test_what_is_not_known_is_not_in_the_batch() -> None:
    whole = experience(1, [1], [1])
    bare = replace(whole, old_logps=None, vstar=None, kl_coef=None)
    missing = whole.minibatch([0], 0, 1, 0, 1).keys() - bare.minibatch([0], 0, 1, 0, 1).keys()
    assert missing == {"old_logps", "vstar", "kl_coef"}


def assert_equal(found: Experience, expected: Experience) -> None:
    for field in fields(Experience):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(other, torch.Tensor):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        else:
            assert one == other


def test_bytes_hold_everything() -> None:
    whole = experience(2, [1, 3], [4, 1, 2, 2])
    assert_equal(Experience.from_bytes(whole.to_bytes()), whole)
    bare = replace(whole, ref_logps=None, vstar=None, kl_coef=None)
    assert_equal(Experience.from_bytes(bare.to_bytes()), bare)
    assert b"pickle" not in whole.to_bytes()


@pytest.mark.parametrize("name", ["answer_weights", "returns", "prompt_lengths", "vstar"])
def test_figures_of_another_length_are_no_iteration(name: str) -> None:
    whole = experience(2, [1, 3], [4, 1, 2, 2])
    with pytest.raises(ValueError, match=f"{name} has shape"):
        replace(whole, **{name: getattr(whole, name)[1:]})


def shares_of(whole: Experience, number: int, size: int, world: int) -> list[Batch]:
    order = list(range(len(whole.prompt_index)))
    shares = [whole.minibatch(order, number, size, rank, world) for rank in range(world)]
    return [whole.weighed(share, order, number, size) for share in shares]


def test_a_mean_over_tokens_is_one_over_the_whole_minibatch() -> None:
    """2 answers of 1 and 2 tokens, then 2 of 3 and 4; each minibatch is shared by two ranks."""
    whole = replace(
        experience(2, [1, 1], [1, 2, 3, 4]), answer_weights=torch.ones(4), aggregation="token_mean"
    )
    for number, tokens in ((0, 3), (1, 7)):
        weights = torch.cat([share["token_weights"] for share in shares_of(whole, number, 2, 2)])
        torch.testing.assert_close(weights, torch.full((tokens,), 2 / tokens))


def test_of_a_minibatch_that_nothing_is_learnt_from_all_answers_count() -> None:
    whole = replace(experience(2, [1, 1], [1, 2, 3, 4]), answer_weights=torch.tensor([0.0, 0.0, 0.0, 1.0]))
    for number, counting in ((0, [1, 1]), (1, [0, 1])):
        counts = [microbatches.count_answers(share) for share in shares_of(whole, number, 2, 2)]
        assert [count["loss_generating"] for count in counts] == counting
