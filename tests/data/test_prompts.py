"""Prompts: from all shards that hold some, in an order that is the same for any ranks, refused when they
cannot be asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from streaming import MDSWriter

from compose_rl.config.data import PromptLoaderConfig
from compose_rl.config.schema import parse
from compose_rl.data.encoding import load_tokenizer
from compose_rl.data.prompts import PromptSource
from compose_rl.data.shards import ShardDataset
from compose_rl.errors import UserError
from compose_rl.store.checksums import file_sha256

VERIFIABLE = {"prompt": "bytes", "verified_answer": "str", "vstar": "float64", "level": "int"}


def tokens(*values: int) -> bytes:
    return np.array(values, np.int64).tobytes()


def write(folder: Path, columns: dict[str, str], rows: list[dict[str, Any]], **how: Any) -> Path:
    with MDSWriter(out=str(folder), columns=columns, **how) as writer:
        for row in rows:
            writer.write(row)
    return folder


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer: Path) -> Any:
    return load_tokenizer(small_tokenizer)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compose RL's verifiable answers with a column for A*-PO: 7 prompts, sample i has i + 1 tokens."""
    rows = [
        {
            "prompt": tokens(*[50 + i] * (i + 1)),
            "verified_answer": str(i),
            "vstar": i / 8,
            "level": [3, 1, 2, 1, 3, 2, 1][i],
        }
        for i in range(7)
    ]
    return write(tmp_path_factory.mktemp("questions") / "train", VERIFIABLE, rows, size_limit=200)


def source(folder: Path, tokenizer: Any, dataset: dict[str, Any] | None = None, **keys: Any) -> PromptSource:
    place = {"local": str(folder), "max_seq_len": 16, "max_gen_len": 4} | (dataset or {})
    return PromptSource(parse(PromptLoaderConfig, {"dataset": place} | keys, "prompt loader"), tokenizer)


def indices(prompts: PromptSource, count: int) -> list[int]:
    return [prompt.index for prompt in prompts.take(count)]


def test_a_prompt_has_tokens_text_and_what_else_the_data_has(questions: Path, tokenizer: Any) -> None:
    third = source(questions, tokenizer, {"shuffle": False}).take(3)[2]
    assert third.index == 2
    assert third.tokens == (52, 52, 52)
    assert third.text == tokenizer.decode([52, 52, 52])
    assert third.columns == {"verified_answer": "2", "vstar": 0.25, "level": 2}
    assert type(third.columns["level"]) is int


def test_shards_with_prompts_alone_are_read(tmp_path: Path, tokenizer: Any) -> None:
    folder = write(tmp_path / "s", {"prompt": "bytes"}, [{"prompt": tokens(5, 6)}])
    [prompt] = source(folder, tokenizer).take(1)
    assert (prompt.tokens, prompt.columns) == ((5, 6), {})


def test_special_tokens_are_no_text(tmp_path: Path, tokenizer: Any) -> None:
    ids = tokenizer("<|start|>the cat<|end|>")["input_ids"]
    folder = write(tmp_path / "s", {"prompt": "bytes"}, [{"prompt": tokens(*ids)}])
    added = tokenizer.convert_tokens_to_ids("<|eos|>")
    assert tokenizer.decode([added]) == "<|eos|>"
    [prompt] = source(folder, tokenizer).take(1)
    assert prompt.text == tokenizer.decode(ids, skip_special_tokens=True)
    assert prompt.tokens == tuple(ids)


def test_messages_are_tokenized_with_the_opening_of_an_answer(tmp_path: Path, tokenizer: Any) -> None:
    question = [{"role": "user", "content": "the cat"}]
    rows = [
        {"messages": question, "metadata": {"verified_answer": "mat"}},
        {"messages": [*question, {"role": "assistant", "content": "sat"}], "metadata": {}},
    ]
    folder = write(tmp_path / "s", {"messages": "json", "metadata": "json"}, rows)
    bare, answered = source(folder, tokenizer, {"shuffle": False, "max_seq_len": 200}).take(2)
    # What the fixture's template says, by hand.
    expected = tokenizer("<|start|>user\nthe cat<|end|>\n<|start|>assistant\n")["input_ids"]
    assert list(bare.tokens) == expected
    assert bare.columns == {"messages": question, "verified_answer": "mat"}
    assert answered.tokens == bare.tokens
    assert answered.columns == {"messages": rows[1]["messages"]}


def test_each_pass_has_every_prompt_once_in_an_order_of_its_own(questions: Path, tokenizer: Any) -> None:
    prompts = source(questions, tokenizer)
    first, second = indices(prompts, 7), indices(prompts, 7)
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second
    assert first != indices(source(questions, tokenizer, {"shuffle_seed": 1}), 7)
    ordered = source(questions, tokenizer, {"shuffle": False})
    assert indices(ordered, 10) == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2]


def test_the_order_goes_on_from_any_number_of_prompts_taken(questions: Path, tokenizer: Any) -> None:
    whole = indices(source(questions, tokenizer), 20)
    prompts = source(questions, tokenizer)
    for taken in (19, 0, 7, 6, 13):
        prompts.taken = taken
        assert indices(prompts, 20 - taken) == whole[taken:]
        assert prompts.taken == 20


def test_a_curriculum_begins_with_the_smallest(questions: Path, tokenizer: Any) -> None:
    prompts = source(questions, tokenizer, curriculum="level")
    first, second = prompts.take(7), prompts.take(7)
    assert [prompt.columns["level"] for prompt in first] == [1, 1, 1, 2, 2, 3, 3]
    assert sorted(prompt.index for prompt in first) == list(range(7))
    assert [prompt.columns["level"] for prompt in second] != [1, 1, 1, 2, 2, 3, 3]
    ordered = source(questions, tokenizer, {"shuffle": False}, curriculum="level")
    assert indices(ordered, 9) == [1, 3, 6, 2, 5, 0, 4, 0, 1]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("levle", "no such column; it has: level, verified_answer, vstar"),
        ("verified_answer", "sample 0 has '0', which is no finite number"),
    ],
)
def test_a_curriculum_without_numbers_is_refused(
    questions: Path, tokenizer: Any, column: str, message: str
) -> None:
    with pytest.raises(UserError, match=f"curriculum='{column}': .*{message}"):
        source(questions, tokenizer, curriculum=column)


def test_long_prompts_are_refused_with_the_numbers(questions: Path, tokenizer: Any) -> None:
    with pytest.raises(
        UserError,
        match=r"2 of 7 with max_gen_len 4 are over max_seq_len 9, the longest \(sample 6\) has 7 tokens;"
        r" raise max_seq_len to 11 .*drop_long: true",
    ):
        source(questions, tokenizer, {"max_seq_len": 9})


def test_long_prompts_are_left_out_and_counted(questions: Path, tokenizer: Any) -> None:
    prompts = source(questions, tokenizer, {"max_seq_len": 9}, drop_long=True, curriculum="level")
    assert prompts.dropped == 2
    assert prompts.longest == 5
    assert len(prompts) == 5
    first = prompts.take(5)
    assert sorted(prompt.index for prompt in first) == list(range(5))
    assert [prompt.columns["level"] for prompt in first] == [1, 1, 2, 3, 3]


def test_a_set_without_a_prompt_that_fits_is_refused(questions: Path, tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"7 of 7 with max_gen_len 4 are over max_seq_len 4.*tokens; raise"):
        source(questions, tokenizer, {"max_seq_len": 4}, drop_long=True)


def test_an_empty_set_and_an_empty_prompt_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(UserError, match="holds no samples"):
        source(write(tmp_path / "none", {"prompt": "bytes"}, []), tokenizer)
    with pytest.raises(UserError, match="sample 1 is empty"):
        rows = [{"prompt": tokens(1)}, {"prompt": b""}]
        source(write(tmp_path / "empty", {"prompt": "bytes"}, rows), tokenizer)


def test_other_shards_are_refused_with_their_columns(tmp_path: Path, tokenizer: Any) -> None:
    folder = write(tmp_path / "s", {"input_ids": "bytes"}, [{"input_ids": tokens(1)}])
    with pytest.raises(UserError, match="lack the column 'prompt'; they have: input_ids"):
        source(folder, tokenizer)


def remote(folder: Path, local: Path, checksums: dict[str, str], tokenizer: Any) -> PromptSource:
    dataset = {"remote": str(folder), "local": str(local), "checksums": checksums}
    return source(folder, tokenizer, dataset)


def test_shards_in_a_store_are_fetched_and_checked(questions: Path, tokenizer: Any, tmp_path: Path) -> None:
    sums = {path.name: file_sha256(path) for path in questions.iterdir()}
    assert len(sums) > 2
    expected = source(questions, tokenizer).take(7)
    assert remote(questions, tmp_path / "a", sums, tokenizer).take(7) == expected
    wrong = sums | {"shard.00001.mds": "0" * 64}
    with pytest.raises(UserError, match=r"shard.00001.mds: SHA-256 is"):
        remote(questions, tmp_path / "b", wrong, tokenizer)


def test_prompts_that_are_known_to_fit_are_not_read_before_they_are_asked(
    questions: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = source(questions, tokenizer).take(10)
    read: list[int] = []
    get_item = ShardDataset.get_item

    def noted(self: ShardDataset, index: int, *rest: Any) -> Any:
        read.append(index)
        return get_item(self, index, *rest)

    monkeypatch.setattr(ShardDataset, "get_item", noted)
    prompts = source(questions, tokenizer, longest=7)
    assert (len(prompts), prompts.longest, prompts.dropped, read) == (7, 7, 0, [])
    assert prompts.take(10) == expected
    assert read == [prompt.index for prompt in expected]
    # What has to be left out, or put in an order, has to be seen.
    for keys in ({"dataset": {"max_seq_len": 9}, "drop_long": True}, {"curriculum": "level"}):
        read.clear()
        told = source(questions, tokenizer, longest=7, **keys)
        assert read == list(range(7))
        assert told.take(10) == source(questions, tokenizer, **keys).take(10)
