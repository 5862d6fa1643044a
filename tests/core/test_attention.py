import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from compose_rl.core.attention import (  # noqa: E402
    layout_from_positions,
    layout_mask,
    packed_attention,
)
from compose_rl.core.flex import attend_flex, visible  # noqa: E402
from compose_rl.core.packing import pack  # noqa: E402
from compose_rl.core.segments import attend_rows, find_rows  # noqa: E402
from compose_rl.errors import UserError  # noqa: E402

SCALE = 0.3


def dense_mask(layout):
    """The rule of the layout token by token: [B, T, T]."""
    batch, _, _, length = layout.shape
    mask = torch.zeros(batch, length, length, dtype=torch.bool)
    for b in range(batch):
        groups, branches = layout[b, 0].tolist()
        for query in range(length):
            for key in range(query + 1):
                mine = groups[query] == groups[key] and groups[query] >= 0
                mask[b, query, key] = mine and branches[key] in (0, branches[query])
    return mask


def dense_attention(query, key, value, layout):
    """Softmax over the visible keys alone, with the formula written out; zeros where nothing is visible."""
    repeats = query.size(1) // key.size(1)
    key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
    mask = dense_mask(layout)[:, None]
    weights = (SCALE * query @ key.transpose(2, 3)).exp() * mask
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)
    return (weights @ value).transpose(1, 2)


def inputs(batch, length, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = (4, 2, 2)  # query heads, key heads
    return [
        torch.randn(batch, heads, length, 8, dtype=dtype, generator=generator, requires_grad=True)
        for heads in shapes
    ]


def compare(attend, layout, tolerance=1e-10, dtype=torch.float64, gradients=True):
    query, key, value = inputs(layout.size(0), layout.size(3), dtype)
    weights = torch.randn(
        query.transpose(1, 2).shape, dtype=dtype, generator=torch.Generator().manual_seed(1)
    )
    results = []
    for function in (attend, dense_attention):
        out = function(query, key, value, layout)
        results.append([out])
        if gradients:
            results[-1] += torch.autograd.grad((out * weights).sum(), (query, key, value))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


def by_rows(query, key, value, layout):
    return attend_rows(query, key, value, find_rows(layout), SCALE)


def by_flex(query, key, value, layout):
    # Newer versions of torch have no backward of it on CPU.
    return attend_flex(query.detach(), key.detach(), value.detach(), layout, SCALE)


@pytest.fixture
def layout(ragged_lengths):
    return layout_mask(pack(torch.arange(int(ragged_lengths.sum())), ragged_lengths))


@pytest.fixture
def padded_layout():
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 1, 2], [0, 1, 2, 3, 4, 0, 1, 0]])
    return layout_from_positions(positions, torch.tensor([[1] * 8, [1] * 5 + [0] * 3]))


def test_rows_of_a_packed_batch_match_dense_attention(layout):
    compare(by_rows, layout)


def test_rows_in_single_precision_match_dense_attention(layout):
    compare(by_rows, layout, tolerance=1e-5, dtype=torch.float32)


def test_several_sequences_with_padding_match_dense_attention(padded_layout):
    compare(by_rows, padded_layout)


def test_padding_belongs_to_no_sample_and_gets_zeros():
    positions = torch.tensor([[0, 1, 2, 3]])
    layout = layout_from_positions(positions, torch.tensor([[1, 1, 0, 0]]))
    assert layout[0, 0, 0].tolist() == [1, 1, -1, -1]
    for attend in (by_rows, by_flex):
        assert attend(*inputs(1, 4), layout)[0, 2:].abs().sum() == 0


def test_flex_attention_matches_dense_attention(layout):
    compare(by_flex, layout, gradients=False)


def test_the_mask_function_of_flex_attention_is_the_layouts_rule(layout, padded_layout):
    for one in (layout, padded_layout):
        batch, _, _, length = one.shape
        index = torch.arange(length)
        mask = visible(one)(
            torch.arange(batch)[:, None, None], torch.tensor(0), index[:, None], index[None, :]
        )
        assert torch.equal(mask, dense_mask(one))


def test_a_shared_prompt_is_attended_once(layout):
    row = find_rows(layout)[0]
    # Row 0 of the fixture: prompt 0..2 with the first answer up to 6, then answers 7..8 and 9..13.
    assert [block.queries for block in row.own] == [slice(0, 7), slice(7, 9), slice(9, 14)]
    assert all(block.queries == block.keys and block.causal for block in row.own)
    assert row.prompt is not None
    assert (row.prompt.queries, row.prompt.keys, row.prompt.causal) == (slice(7, 14), slice(0, 3), False)


def test_a_token_of_another_group_or_answer_changes_nothing(layout):
    query, key, value = inputs(1, layout.size(3))
    before = by_rows(query, key, value, layout)
    stranger = 7  # the second answer of row 0
    with torch.no_grad():
        for tensor in (query, key, value):
            tensor[:, :, stranger] += 1
    changed = (by_rows(query, key, value, layout) != before).flatten(2).any(-1)[0].nonzero().flatten()
    assert changed.tolist() == [7, 8]


def test_bfloat16_stays_close(layout):
    query, key, value = (x.detach() for x in inputs(1, layout.size(3)))
    exact = by_rows(query, key, value, layout)
    rounded = by_rows(query.bfloat16(), key.bfloat16(), value.bfloat16(), layout)
    torch.testing.assert_close(rounded.double(), exact, rtol=0.03, atol=0.03)


def test_a_mask_that_is_no_layout_goes_to_plain_attention():
    query, key, value = (x.detach() for x in inputs(2, 5))
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool).tril()
    module = torch.nn.Module()
    module.num_key_value_groups = 2
    out, _ = packed_attention(module, query, key, value, mask, scaling=SCALE)
    causal = layout_from_positions(torch.arange(5).expand(2, 5))
    torch.testing.assert_close(out, dense_attention(query, key, value, causal), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"dropout": 0.1}, "attention_dropout"),
        ({"sliding_window": 4}, "sliding_window"),
        ({"softcap": 5.0}, "softcap"),
    ],
)
def test_what_would_change_the_result_is_refused(layout, setting, name):
    with pytest.raises(UserError, match=name):
        packed_attention(torch.nn.Module(), *inputs(1, layout.size(3)), layout, **setting)
