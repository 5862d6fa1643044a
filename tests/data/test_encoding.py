"""Token ids of pieces of text."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from compose_rl.data.encoding import PieceEncoder, load_tokenizer, tokenizer_digest
from compose_rl.errors import UserError


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Puts a space mark in front of every text, as Llama 2's tokenizer does."""
    scores = {
        "<unk>": -9.0,
        "▁": -1.0,
        "▁a": -1.0,
        "a": -1.0,
        "b": -1.0,
        "▁b": -1.0,
        "\n": -1.0,
        "\nc": -0.5,
        "c": -1.0,
    }
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(list(scores.items()), 0, False))
    backend.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def test_pieces_have_no_mark_of_a_text_that_begins() -> None:
    tokenizer = sentencepiece_like()
    assert tokenizer.convert_ids_to_tokens(tokenizer("b")["input_ids"]) == ["▁b"]
    encode = PieceEncoder(tokenizer)
    pieces = [tokenizer.convert_ids_to_tokens(ids.tolist()) for ids in encode(["b", "b b", "c"])]
    # "c" would merge with the line break in front of it ("\nc"), so it is encoded by itself.
    assert pieces == [["b"], ["b", "▁b"], ["▁", "c"]]


@given(st.lists(st.text(max_size=12), max_size=4))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_tokens_of_pieces_joined_are_the_text(small_tokenizer_loaded, texts: list[str]) -> None:
    encode = PieceEncoder(small_tokenizer_loaded)
    ids = [token for piece in encode(texts) for token in piece.tolist()]
    decoded = small_tokenizer_loaded.decode(ids, clean_up_tokenization_spaces=False)
    assert decoded == "".join(texts)


@pytest.fixture(scope="module")
def small_tokenizer_loaded(small_tokenizer: Path):
    return load_tokenizer(small_tokenizer)


def test_truncation_and_padding_saved_with_a_tokenizer_do_not_apply(small_tokenizer: Path) -> None:
    tokenizer = load_tokenizer(small_tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    assert len(PieceEncoder(tokenizer)(["xyzw"])[0]) == 4


def test_the_digest_tells_tokenizers_and_templates_apart(small_tokenizer: Path) -> None:
    first, second = load_tokenizer(small_tokenizer), load_tokenizer(small_tokenizer)
    assert tokenizer_digest(first) == tokenizer_digest(second)
    second.chat_template = "{{ messages }}"
    assert tokenizer_digest(first) != tokenizer_digest(second)
    second.chat_template = first.chat_template
    second.add_tokens(["<more>"])
    assert tokenizer_digest(first) != tokenizer_digest(second)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded"):
        load_tokenizer(tmp_path)
