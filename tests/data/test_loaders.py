"""Dataloaders: batches from shards, in order, resumed, refused when they cannot be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from safetensors.numpy import save_file
from streaming import MDSWriter

from compose_rl.data.encoding import load_tokenizer
from compose_rl.data.loaders import DATALOADERS
from compose_rl.errors import UserError


def tokens(*values: int) -> bytes:
    return np.array(values, np.int64).tobytes()


def write(folder: Path, columns: dict[str, str], rows: list[dict[str, Any]], **how: Any) -> Path:
    with MDSWriter(out=str(folder), columns=columns, **how) as writer:
        for row in rows:
            writer.write(row)
    return folder


def build(name: str, folder: Path, batch: int = 2, tokenizer: Any = None, max_seq_len: int = 16, **keys: Any):
    dataset = {"local": str(folder), "max_seq_len": max_seq_len, **keys.pop("dataset", {})}
    return DATALOADERS[name](tokenizer, batch, dataset=dataset, **keys)


def batches(spec) -> list[dict[str, Any]]:
    return [{name: value.tolist() for name, value in batch.items()} for batch in spec.dataloader]


PAIR = {"prompt": "bytes", "chosen": "bytes", "rejected": "bytes"}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pairs: prompt [i], chosen i + 1 times 10 + i, rejected [20 + i]."""
    rows = [
        {"prompt": tokens(i), "chosen": tokens(*[10 + i] * (i + 1)), "rejected": tokens(20 + i)}
        for i in range(5)
    ]
    return write(tmp_path_factory.mktemp("pairs") / "train", PAIR, rows)


def test_a_preference_batch_is_ragged_with_the_prompt_once(pairs: Path) -> None:
    spec = build("pairwise_preference", pairs)
    first, second, third = batches(spec)
    assert first == {
        "lengths": [[1, 1, 1], [1, 2, 1]],
        "tokens": [0, 10, 20, 1, 11, 11, 21],
        "index": [0, 1],
        "weight": [1.0, 1.0],
    }
    assert second["index"] == [2, 3]
    assert third == {"lengths": [[1, 5, 1]], "tokens": [4, *[14] * 5, 24], "index": [4], "weight": [1.0]}
    assert spec.num_samples == 5


def test_shards_of_the_original_without_a_prompt_column_are_read_by_common_prefix(tmp_path: Path) -> None:
    rows = [
        {"chosen": tokens(1, 2, 3, 4), "rejected": tokens(1, 2, 5)},
        {"chosen": tokens(1, 2), "rejected": tokens(1, 2)},
    ]
    folder = write(tmp_path / "s", {"chosen": "bytes", "rejected": "bytes"}, rows)
    [batch] = batches(build("pairwise_preference", folder))
    # Of equal sides the last token is left to the answers, which so are not empty.
    assert batch["tokens"] == [1, 2, 3, 4, 5, 1, 2, 2]
    assert batch["lengths"] == [[2, 2, 1], [1, 1, 1]]


def test_rewards_are_in_the_batch(tmp_path: Path) -> None:
    row = {
        "prompt": tokens(1),
        "chosen": tokens(2),
        "rejected": tokens(3),
        "chosen_reward": 1.5,
        "rejected_reward": -2.0,
    }
    folder = write(tmp_path / "s", PAIR | {"chosen_reward": "float64", "rejected_reward": "float64"}, [row])
    [batch] = list(build("pairwise_preference", folder).dataloader)
    assert batch["chosen_reward"].dtype == torch.float32
    assert (batch["chosen_reward"].tolist(), batch["rejected_reward"].tolist()) == ([1.5], [-2.0])


def test_reference_log_probs_follow_the_index(pairs: Path, tmp_path: Path) -> None:
    values = np.arange(5, dtype=np.float32)
    save_file(
        {"chosen": -values, "rejected": -10 - values, "mismatched": -20 - values},
        tmp_path / "train.safetensors",
    )
    spec = build("pairwise_preference", pairs, batch=5, reference=str(tmp_path), dataset={"shuffle": True})
    [batch] = list(spec.dataloader)
    index = batch["index"].float()
    assert index.tolist() != sorted(index.tolist())
    assert torch.equal(batch["ref_chosen"], -index)
    assert torch.equal(batch["ref_rejected"], -10 - index)
    assert torch.equal(batch["ref_kl"], -20 - index)


def test_a_reference_of_another_dataset_is_refused(pairs: Path, tmp_path: Path) -> None:
    save_file({"chosen": np.zeros(4, np.float32)}, tmp_path / "train.safetensors")
    with pytest.raises(UserError, match=r"'chosen' is of 4 samples, the dataset has 5"):
        build("pairwise_preference", pairs, reference=str(tmp_path))
    with pytest.raises(UserError, match="run reference_logprobs again"):
        (tmp_path / "train.safetensors").write_bytes(b"\x40")
        build("pairwise_preference", pairs, reference=str(tmp_path))
    with pytest.raises(UserError, match="reference: no "):
        build("pairwise_preference", pairs, reference=str(tmp_path / "missing"))


def test_the_answer_of_the_next_sample_is_lent_for_the_kl_term(pairs: Path) -> None:
    [batch] = batches(build("pairwise_preference", pairs, batch=5, kl_pairs=True))
    # Lender of 0..4: 1 (rejected), 2 (chosen), 3 (rejected), 4 (chosen), 0 (chosen).
    assert batch["kl_tokens"] == [0, 21, 1, 12, 12, 12, 2, 23, 3, *[14] * 5, 4, 10]
    assert batch["kl_lengths"] == [[1, 1], [1, 3], [1, 1], [1, 5], [1, 1]]


def test_a_lent_answer_is_the_same_in_any_batch_and_fits_the_limit(pairs: Path) -> None:
    shuffled = batches(build("pairwise_preference", pairs, batch=1, kl_pairs=True, dataset={"shuffle": True}))
    assert {batch["index"][0]: batch["kl_tokens"] for batch in shuffled}[3] == [3, *[14] * 5]


def test_unpaired_answers_and_their_labels(tmp_path: Path) -> None:
    columns = {"prompt": "bytes", "completion": "bytes", "label": "bytes"}
    rows = [{"prompt": tokens(i), "completion": tokens(7, 8), "label": tokens(i)} for i in range(2)]
    [batch] = list(
        build("unpaired_preference", write(tmp_path / "s", columns, rows), kl_pairs=True).dataloader
    )
    assert batch["label"].dtype == torch.bool
    assert batch["label"].tolist() == [False, True]
    assert batch["tokens"].tolist() == [0, 7, 8, 1, 7, 8]
    assert batch["kl_lengths"].tolist() == [[1, 2], [1, 2]]


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (tokens(1), [1.0]),
        (b"\1", [1.0]),
        (tokens(1, 0, 1), [[1.0, 0.0, 1.0]]),
        (b"\1\0\1", [[1.0, 0.0, 1.0]]),
    ],
)
def test_labels_are_read_by_their_true_width(tmp_path: Path, label: bytes, expected: list) -> None:
    folder = write(
        tmp_path / "s", {"input": "bytes", "label": "bytes"}, [{"input": tokens(3, 4), "label": label}]
    )
    [batch] = list(build("finegrained_preference", folder).dataloader)
    assert batch["label"].dtype == torch.float32
    assert batch["label"].tolist() == expected
    assert (batch["tokens"].tolist(), batch["lengths"].tolist()) == ([3, 4], [[2]])


def test_instruction_samples_are_packed_into_one_row(tmp_path: Path) -> None:
    rows = [
        {"input_ids": tokens(1, 2, 3), "labels": tokens(-100, 2, 3)},
        {"input_ids": tokens(4, 5), "labels": tokens(4, 5)},
    ]
    spec = build("packed_instruction", write(tmp_path / "s", {"input_ids": "bytes", "labels": "bytes"}, rows))
    [batch] = list(spec.dataloader)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    # The first token of a sample would be predicted from the sample before it.
    assert batch["labels"].tolist() == [[-100, 2, 3, -100, 5]]
    assert batch["attention_mask"].tolist() == [[1] * 5]
    assert spec.get_num_samples_in_batch(batch) == 2
    assert spec.get_num_tokens_in_batch(batch) == 5
    assert spec.get_num_tokens_in_batch(batch, "loss_generating") == 3


def test_messages_are_tokenized_on_the_fly(small_tokenizer: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(small_tokenizer)
    talk = [{"role": "user", "content": "cat"}, {"role": "assistant", "content": "sat"}]
    columns = {"messages": "json", "metadata": "json"}
    folder = write(tmp_path / "s", columns, [{"messages": talk, "metadata": {}}])
    [batch] = list(build("packed_instruction", folder, tokenizer=tokenizer, max_seq_len=64).dataloader)
    labels = batch["labels"][0]
    assert tokenizer.decode(labels[labels != -100]) == "sat<|end|>"
    asked = tokenizer.apply_chat_template(talk[:1], add_generation_prompt=True)
    assert batch["input_ids"][0, : len(asked)].tolist() == asked
    [batch] = list(
        build("packed_instruction", folder, tokenizer=tokenizer, max_seq_len=64, loss_on="all").dataloader
    )
    assert (batch["labels"][0] != -100).sum() == batch["labels"].shape[1] - 1


def test_the_order_is_that_of_the_seed_and_is_resumed(pairs: Path) -> None:
    def order(seed: int, state: dict | None = None) -> list[list[int]]:
        spec = build("pairwise_preference", pairs, dataset={"shuffle": True, "shuffle_seed": seed})
        if state is not None:
            spec.dataloader.load_state_dict(state)
        return [batch["index"].tolist() for batch in spec.dataloader]

    whole = order(3)
    assert whole == order(3) != order(4)
    assert sorted(index for batch in whole for index in batch) == [0, 1, 2, 3, 4]
    spec = build("pairwise_preference", pairs, dataset={"shuffle": True, "shuffle_seed": 3})
    iterator = iter(spec.dataloader)
    next(iterator)
    state = spec.dataloader.state_dict()
    assert state["sample_in_epoch"] == 2
    assert order(3, state) == whole[1:]


def test_worker_processes_give_the_same_batches(pairs: Path) -> None:
    alone, helped = build("pairwise_preference", pairs), build("pairwise_preference", pairs, num_workers=1)
    assert batches(alone) == batches(helped)


def test_incomplete_batches_can_be_dropped(pairs: Path) -> None:
    assert len(batches(build("pairwise_preference", pairs, drop_last=True))) == 2


def test_a_sample_over_the_limit_is_refused_not_cut(pairs: Path) -> None:
    with pytest.raises(UserError, match="sample 4 has 6 tokens, over max_seq_len 5"):
        batches(build("pairwise_preference", pairs, max_seq_len=5))


def test_a_truncated_shard_is_named(pairs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    for file in pairs.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    shard = folder / "shard.00000.mds"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    with pytest.raises(
        UserError, match=rf"shard.00000.mds: truncated shard, {len(whole) - 10} of {len(whole)} bytes"
    ):
        build("pairwise_preference", folder)
    # A shard that is downloaded is looked at when it is read. Cut by 8, the last token would be missing.
    shard.write_bytes(whole)
    spec = build("pairwise_preference", folder)
    shard.write_bytes(whole[:-8])
    with pytest.raises(UserError, match=r"shard.00000.mds: truncated shard"):
        batches(spec)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"token_budgt": 5}, "unknown key 'token_budgt'; did you mean 'token_budget'"),
        ({"dataset": {"shuffel": True}}, "dataset: unknown key 'shuffel'; did you mean 'shuffle'"),
        ({"dataset": {"local": None}}, "set 'local'"),
        ({"dataset": {"local": "/no/such/place"}}, "no index.json"),
    ],
)
def test_a_wrong_key_is_named(pairs: Path, keys: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("pairwise_preference", pairs, **keys)


def test_a_loader_for_other_data_names_the_columns(pairs: Path) -> None:
    with pytest.raises(
        UserError, match="shards lack the column 'input'; they have: chosen, prompt, rejected"
    ):
        batches(build("finegrained_preference", pairs))
    with pytest.raises(UserError, match="'kl_pairs' has no meaning"):
        build("finegrained_preference", pairs, kl_pairs=True)


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no samples"):
        build("pairwise_preference", write(tmp_path / "s", PAIR, []))
