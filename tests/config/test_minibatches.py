"""Sizes of online RL: they fit each other, or are refused with the numbers."""

from __future__ import annotations

import pytest

from compose_rl.config.minibatches import check_minibatches, with_minibatches
from compose_rl.config.online_rl import OnlineVariables
from compose_rl.errors import UserError


def variables(prompts: int, generations: int, updates: int) -> OnlineVariables:
    return OnlineVariables(
        max_gen_len=8,
        num_unique_prompts_per_iter=prompts,
        generations_per_prompt=generations,
        num_batches_per_update=updates,
    )


def test_whole_minibatches_and_shares_are_taken() -> None:
    check_minibatches(variables(8, 4, 2), 16, 4)
    check_minibatches(variables(3, 4, 2), 6, 3)


@pytest.mark.parametrize(
    ("given", "size", "world", "message"),
    [
        ((8, 4, 2), 16, 3, "global_train_batch_size=16 cannot be shared evenly by 3 processes; .* 3$"),
        ((8, 4, 3), 16, 2, "8 .* of 4 .* are 32 answers, but .* 16 times .* 3 is 48; set .* to 12$"),
        ((8, 5, 2), 16, 2, "are 40 answers, .* is 32; make their product a multiple of 5$"),
    ],
)
def test_what_does_not_divide_is_refused(
    given: tuple[int, int, int], size: int, world: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_minibatches(variables(*given), size, world)


def test_a_documents_loader_of_prompts_is_told_how_long_an_epoch_is() -> None:
    eight = {"variables": {"num_batches_per_update": 8}}
    filled = with_minibatches({"train_loader": {"name": "prompt", "drop_last": True}, **eight})
    assert filled == {"train_loader": {"name": "prompt", "drop_last": True, "minibatches": 8}, **eight}
    assert with_minibatches({"train_loader": {"name": "messages"}})["train_loader"]["minibatches"] == 1
    given = {"train_loader": {"name": "prompt", "minibatches": 3}, **eight}
    assert with_minibatches(given) == given
    for foreign in ({}, {"train_loader": {"name": "finetuning"}, **eight}):
        assert with_minibatches(foreign) == foreign
