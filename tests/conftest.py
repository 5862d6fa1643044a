"""Fixtures for tests of the stage contract."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

from compose_rl.stages.spec import StageSpec

TOY = Path(__file__).parent / "toy"


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test alone."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("COMPOSE_RL_CACHE", str(folder))
    return folder


@pytest.fixture
def toy(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> StageSpec:
    """The specification of ``tests/toy/toy_stage.py``, which runs as a process of this environment."""
    monkeypatch.syspath_prepend(str(TOY))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TOY), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("COMPOSE_RL_ENV_TRAIN", sys.prefix)
    return importlib.import_module("toy_stage").SPEC


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a Llama of 2 layers, vocabulary 64, and its tokenizer."""
    from tiny_training import write_model

    return write_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte-level BPE tokenizer; its template ends turns with ``<|end|>`` and a newline."""
    tokenizers = pytest.importorskip("tokenizers")
    from transformers import PreTrainedTokenizerFast

    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|eos|>", "<|start|>", "<|end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["the cat sat on the mat and the dog sat on the cat\n\n"] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|eos|>")
    tokenizer.chat_template = (
        "{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
    )
    folder = tmp_path_factory.mktemp("tokenizer") / "small"
    tokenizer.save_pretrained(folder)
    return folder
