import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from compose_rl.core.packing import fill, pack, restarting_positions  # noqa: E402

CASES = settings(max_examples=50, deadline=None, derandomize=True)


def has_ends(row):
    """Every answer ends somewhere: in its own tokens or in the prompt's."""
    return row[0] > 0 or (len(row) > 1 and all(row[1:]))


tables = st.integers(1, 4).flatmap(
    lambda columns: st.lists(
        st.lists(st.integers(0, 4), min_size=columns, max_size=columns).filter(has_ends),
        min_size=1,
        max_size=5,
    )
)


def packed_of(table, seed=0):
    lengths = torch.tensor(table)
    tokens = torch.randint(0, 1000, (int(lengths.sum()),), generator=torch.Generator().manual_seed(seed))
    return tokens, lengths, pack(tokens, lengths)


def test_a_pair_and_a_pair_without_prompt_by_hand():
    # Row 0: prompt 10 11, answers 12 13 14 | 15. Row 1: no prompt, answers 20 21 | 22 23 24 25.
    tokens = torch.tensor([10, 11, 12, 13, 14, 15, 20, 21, 22, 23, 24, 25])
    packed = pack(tokens, torch.tensor([[2, 3, 1], [0, 2, 4]]))
    assert packed.position_ids.tolist() == [0, 1, 2, 3, 4, 2, 0, 1, 0, 1, 2, 3]
    assert packed.group_ids.tolist() == [0] * 6 + [1] * 6
    assert packed.branch_ids.tolist() == [0, 0, 1, 1, 1, 2, 1, 1, 2, 2, 2, 2]
    # 15 is predicted by the prompt's last token 11 at 1; 20 and 22 by nothing.
    assert packed.targets.tolist() == [12, 13, 14, 15, 21, 23, 24, 25]
    assert packed.target_index.tolist() == [1, 2, 3, 1, 6, 8, 9, 10]
    assert packed.answer_ids.tolist() == [0, 0, 0, 1, 2, 3, 3, 3]
    assert packed.answer_lengths.tolist() == [3, 1, 1, 3]
    assert packed.answer_ends.tolist() == [4, 5, 7, 11]


@CASES
@given(tables)
def test_layout_is_that_of_a_loop_over_tokens(table):
    tokens, _, packed = packed_of(table)
    columns = max(len(table[0]), 2)
    at, expected = 0, {"position": [], "group": [], "branch": [], "target": [], "answer": [], "ends": []}
    for group, row in enumerate(table):
        prompt_last = at + row[0] - 1
        for branch, length in enumerate(row if len(row) > 1 else [*row, 0]):
            for offset in range(length):
                expected["position"].append(offset + (row[0] if branch else 0))
                expected["group"].append(group)
                expected["branch"].append(branch)
                before = at + offset - 1 if offset else (prompt_last if row[0] else None)
                if branch and before is not None:
                    expected["target"].append((before, int(tokens[at + offset])))
                    expected["answer"].append(group * (columns - 1) + branch - 1)
            at += length
            if branch:
                expected["ends"].append(at - 1 if length else prompt_last)
    assert packed.position_ids.tolist() == expected["position"]
    assert packed.group_ids.tolist() == expected["group"]
    assert packed.branch_ids.tolist() == expected["branch"]
    pairs = zip(packed.target_index.tolist(), packed.targets.tolist(), strict=True)
    assert list(pairs) == expected["target"]
    assert packed.answer_ids.tolist() == expected["answer"]
    assert packed.answer_ends.tolist() == expected["ends"]


@CASES
@given(tables, st.randoms(use_true_random=False))
def test_order_of_rows_only_permutes_the_answers(table, rng):
    tokens, lengths, packed = packed_of(table)
    order = list(range(len(table)))
    rng.shuffle(order)
    parts = tokens.split(lengths.sum(1).tolist())
    again = pack(torch.cat([parts[row] for row in order]), lengths[order])
    per_row = packed.answer_lengths.numel() // len(table)

    def targets(batch, row):
        mine = batch.answer_ids // per_row == row
        return batch.targets[mine].tolist()

    assert [targets(again, new) for new in range(len(order))] == [targets(packed, old) for old in order]


@CASES
@given(tables)
def test_sums_per_answer_are_those_of_its_targets(table):
    _, _, packed = packed_of(table)
    values = torch.arange(packed.targets.numel(), dtype=torch.float64)
    sums = [values[packed.answer_ids == answer].sum() for answer in range(packed.answer_lengths.numel())]
    assert torch.equal(packed.sum_per_answer(values), torch.stack(sums))


def test_a_single_column_is_a_row_with_an_end_and_no_target():
    packed = pack(torch.arange(5), torch.tensor([[2], [3]]))
    assert packed.answer_ends.tolist() == [1, 4]
    assert packed.targets.numel() == 0
    assert packed.answer_lengths.tolist() == [0, 0]


@pytest.mark.parametrize("lengths", [[[2, 3]], [[5, -1]], [[4], [0]], [[0, 4, 0]], [4]])
def test_tables_that_do_not_fit_are_refused(lengths):
    with pytest.raises(ValueError):
        pack(torch.arange(4), torch.tensor(lengths))


def test_moving_a_batch_moves_every_tensor():
    packed = pack(torch.arange(4), torch.tensor([[2, 2]])).to("meta")
    assert {tensor.device.type for tensor in vars(packed).values()} == {"meta"}


def test_positions_restart_with_each_sample():
    assert restarting_positions(torch.tensor([3, 1, 2])).tolist() == [0, 1, 2, 0, 0, 1]


@CASES
@given(
    st.lists(st.integers(1, 30), max_size=20),
    st.integers(1, 40),
    st.one_of(st.none(), st.integers(1, 4)),
    st.booleans(),
)
def test_microbatches_hold_every_row_once_within_the_budget(lengths, budget, max_rows, balance):
    parts = fill(lengths, budget, max_rows, balance=balance)
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    for part in parts:
        assert part == sorted(part)
        assert len(part) <= (max_rows or len(lengths))
        assert len(part) == 1 or sum(lengths[row] for row in part) <= budget
    if not balance:
        assert [row for part in parts for row in part] == list(range(len(lengths)))
    assert fill(lengths, budget, max_rows, balance=balance) == parts


def test_balancing_evens_the_load_and_never_needs_more_microbatches():
    lengths = [9, 1, 1, 1, 8, 2]
    assert fill(lengths, 12) == [[0, 1, 2, 3], [4, 5]]
    balanced = fill(lengths, 12, balance=True)
    assert [sum(lengths[row] for row in part) for part in balanced] == [11, 11]
    assert fill([6, 5, 6, 5], 12) == [[0, 1], [2, 3]]
    assert fill([7, 7, 4, 4], 11) == [[0], [1, 2], [3]]
    assert fill([7, 7, 4, 4], 11, balance=True) == [[0, 2], [1, 3]]


def test_impossible_budgets_are_refused():
    with pytest.raises(ValueError):
        fill([1], 0)
    with pytest.raises(ValueError):
        fill([1], 1, 0)
