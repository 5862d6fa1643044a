"""The demo's tokenizer and untrained model are what any base model is: a Hugging Face folder."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from random import Random

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from compose_rl.data.encoding import PieceEncoder  # noqa: E402
from compose_rl.demo.language import ANSWERS, answer, requests  # noqa: E402
from compose_rl.demo.model import save_base_model  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_base_model(folder, 5)
    return folder


def test_texts_come_back_from_the_tokenizer_unchanged(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rng = Random(1)
    for request in islice(requests(rng), 100):
        for text in (request.text, answer(request, request.items, rng.choice(ANSWERS))):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text


def test_the_chat_template_ends_an_answer_with_the_end_token(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [
        {"role": "user", "content": "Make a note:\nfig"},
        {"role": "assistant", "content": "The list:\nfig"},
    ]
    whole = tokenizer.apply_chat_template(messages)
    prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True)
    assert whole[: len(prompt)] == prompt
    assert whole[-1] == tokenizer.eos_token_id != tokenizer.pad_token_id
    assert tokenizer.decode(prompt) == "<|user|>Make a note:\nfig<|end|><|assistant|>"


def test_tokenizing_keeps_every_token_of_an_answer(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ["I would write:\nfig\nkiwi", "Sure, here you go:\nlion"]
    assert [tokenizer.decode(ids) for ids in PieceEncoder(tokenizer)(texts)] == texts


def test_the_model_is_small_seeded_and_knows_the_vocabulary(folder: Path, tmp_path: Path) -> None:
    save_base_model(tmp_path / "again", 5)
    save_base_model(tmp_path / "other", 6)
    weights = (folder / "model.safetensors").read_bytes()
    assert weights == (tmp_path / "again" / "model.safetensors").read_bytes()
    assert weights != (tmp_path / "other" / "model.safetensors").read_bytes()
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert 1_000_000 <= model.num_parameters() <= 5_000_000
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(folder))
    assert model.generation_config.eos_token_id == model.config.eos_token_id
