"""From rows to samples: exact pieces, lengths, labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st

from compose_rl.config.data import TokenizeOptions
from compose_rl.data.encoding import load_tokenizer
from compose_rl.data.tokenizing import Chunk, RowTokenizer, chunks

ROW = {"prompt": "the cat", "chosen": "sat on the mat", "rejected": "sat"}


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer: Path):
    return load_tokenizer(small_tokenizer)


def tokenize(tokenizer, rows: list[dict], kind: str = "preference", rewards: bool = False, **options):
    result = RowTokenizer(tokenizer, TokenizeOptions(dataset_type=kind, **options), rewards)(Chunk(0, rows))
    return result.samples, result.dropped


def ids(value: bytes) -> list[int]:
    return np.frombuffer(value, np.int64).tolist()


def test_a_pair_is_the_prompt_and_two_answers(tokenizer) -> None:
    [sample], dropped = tokenize(tokenizer, [ROW])
    prompt, chosen, rejected = (ids(sample.columns[name]) for name in ("prompt", "chosen", "rejected"))
    assert tokenizer.decode(prompt) == "<|start|>user\nthe cat<|end|>\n<|start|>assistant\n"
    assert tokenizer.decode(chosen) == "sat on the mat<|end|>"
    assert tokenizer.decode(rejected) == "sat<|end|>"
    assert sample.length == len(prompt) + len(chosen)
    assert sample.tokens == len(prompt) + len(chosen) + len(rejected)
    assert not dropped


def test_the_prompt_is_what_generation_is_given_even_where_the_tokenizer_would_merge(tokenizer) -> None:
    # The prompt ends with a line break, the answer begins with two; in a whole text two are one token.
    [sample], _ = tokenize(tokenizer, [ROW | {"chosen": "\n\nsat", "rejected": "mat"}])
    ask = [{"role": "user", "content": "the cat"}]
    given_at_generation = tokenizer.apply_chat_template(ask, add_generation_prompt=True)
    talk = [*ask, {"role": "assistant", "content": "\n\nsat"}]
    whole = tokenizer.apply_chat_template(talk)
    size = len(given_at_generation)
    assert whole[:size] != given_at_generation, "the tokenizer of this test must merge line breaks"
    assert ids(sample.columns["prompt"]) == given_at_generation
    assert tokenizer.decode(ids(sample.columns["chosen"])) == "\n\nsat<|end|>"


@given(st.lists(st.text("the catson\n", max_size=9), min_size=3, max_size=9), st.integers(1, 4))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_samples_do_not_depend_on_their_chunk(tokenizer, texts: list[str], size: int) -> None:
    rows = [{"prompt": texts[i], "chosen": texts[i - 1], "rejected": texts[i - 2]} for i in range(len(texts))]
    work = RowTokenizer(tokenizer, TokenizeOptions(dataset_type="preference", max_length=40), False)
    whole = work(Chunk(0, rows))
    parts = [work(chunk) for chunk in chunks(iter(rows), size)]
    assert [sample for part in parts for sample in part.samples] == whole.samples
    assert [entry for part in parts for entry in part.dropped] == whole.dropped
    assert sum(part.rows for part in parts) == len(rows)


def test_over_the_limit_a_row_is_dropped_or_loses_the_start_of_its_prompt(tokenizer) -> None:
    [full], _ = tokenize(tokenizer, [ROW])
    limit = full.length - 2
    assert tokenize(tokenizer, [ROW], max_length=limit) == ([], [(0, "over max_length")])
    [cut], dropped = tokenize(tokenizer, [ROW], max_length=limit, truncation="truncate_prompt")
    assert not dropped
    assert (cut.length, cut.cut) == (limit, 2)
    assert ids(cut.columns["prompt"]) == ids(full.columns["prompt"])[2:]
    assert (cut.columns["chosen"], cut.columns["rejected"]) == (
        full.columns["chosen"],
        full.columns["rejected"],
    )


def test_an_answer_is_never_cut(tokenizer) -> None:
    [full], _ = tokenize(tokenizer, [ROW])
    limit = len(ids(full.columns["chosen"]))
    assert tokenize(tokenizer, [ROW], max_length=limit + 1, truncation="truncate_prompt")[1] == []
    samples, dropped = tokenize(tokenizer, [ROW], max_length=limit, truncation="truncate_prompt")
    assert (samples, dropped) == ([], [(0, "over max_length even without its prompt")])


def test_a_prompt_over_the_limit_is_told_apart(tokenizer) -> None:
    assert tokenize(tokenizer, [ROW], max_length=4)[1] == [(0, "prompt over max_length")]


def test_instruction_labels_are_the_answers_alone_or_all_but_the_first_token(tokenizer) -> None:
    talk = {
        "messages": [
            {"role": "user", "content": "cat"},
            {"role": "assistant", "content": "sat"},
            {"role": "user", "content": "dog"},
            {"role": "assistant", "content": "mat"},
        ]
    }
    [answers], _ = tokenize(tokenizer, [talk], "instruction")
    tokens, labels = (np.array(ids(answers.columns[name])) for name in ("input_ids", "labels"))
    assert tokenizer.decode(tokens[labels != -100]) == "sat<|end|>mat<|end|>"
    assert (labels == np.where(labels == -100, -100, tokens)).all()
    whole = tokenizer.apply_chat_template(talk["messages"], tokenize=False)
    assert tokenizer.decode(tokens) + "\n" == whole
    [every], _ = tokenize(tokenizer, [talk], "instruction", loss_on="all")
    labels = ids(every.columns["labels"])
    assert labels == [-100, *tokens[1:].tolist()]


def test_columns_of_the_other_types(tokenizer) -> None:
    [unpaired], _ = tokenize(
        tokenizer, [{"prompt": "cat", "completion": "sat", "label": False}], "unpaired_preference"
    )
    assert sorted(unpaired.columns) == ["completion", "label", "prompt"]
    assert unpaired.columns["label"] == b"\0" * 8
    [prompt], _ = tokenize(tokenizer, [{"prompt": "cat"}], "single_prompt")
    assert list(prompt.columns) == ["prompt"]
    [verifiable], _ = tokenize(tokenizer, [{"prompt": "cat", "answer": " 7 "}], "verifiable_answers")
    assert verifiable.columns == {"prompt": prompt.columns["prompt"], "verified_answer": "7"}
    [text], _ = tokenize(tokenizer, [{"text": "cat", "label": 1}], "classifier")
    assert tokenizer.decode(ids(text.columns["input"])) == "cat"
    assert text.columns["label"] == b"\1" + b"\0" * 7
    [several], _ = tokenize(tokenizer, [{"text": "cat", "label": [1, 0]}], "classifier")
    assert ids(several.columns["label"]) == [1, 0]
    talk = [{"role": "user", "content": "cat"}]
    [messages], _ = tokenize(
        tokenizer, [{"messages": talk, "metadata": {"verified_answer": "7"}}], "messages"
    )
    assert messages.columns == {"messages": talk, "metadata": {"verified_answer": "7"}}
    [rewarded], _ = tokenize(tokenizer, [ROW | {"chosen_reward": 2, "rejected_reward": 0.5}], rewards=True)
    assert (rewarded.columns["chosen_reward"], rewarded.columns["rejected_reward"]) == (2.0, 0.5)


def test_equal_prompts_and_equal_samples_have_equal_hashes(tokenizer) -> None:
    other = ROW | {"rejected": "mat"}
    (first, second, third), _ = tokenize(tokenizer, [ROW, other, ROW])
    assert first.prompt_hash == second.prompt_hash == third.prompt_hash
    assert first.content_hash == third.content_hash != second.content_hash
    [elsewhere], _ = tokenize(tokenizer, [ROW | {"prompt": "the dog"}])
    assert elsewhere.prompt_hash != first.prompt_hash


def test_a_tokenizer_without_pad_or_bos_will_do(tokenizer) -> None:
    assert tokenizer.pad_token is None and tokenizer.bos_token is None
    assert tokenize(tokenizer, [ROW])[0]
