"""Fixtures for tests of the stage contract."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compose_rl.stages.spec import StageSpec

TOY = Path(__file__).parent / "toy"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: of several workers, none is left with a long file at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Spare garbage collections what was imported, which stays: half a second each, one in every training."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def shared_memory_goes() -> Iterator[None]:
    """Let go of the shared memory of a module's datasets.

    Streaming keeps it, and what it looked at of other datasets', until the process ends; so the handles of a
    process with many datasets grow with the square of their number.
    """
    kept: list[Callable[[], Any]] = []
    register = atexit.register

    def noted(function: Any, *args: Any, **kwargs: Any) -> Any:
        if type(getattr(function, "__self__", None)).__module__ == "streaming.base.shared.memory":
            kept.append(function)
        return register(function, *args, **kwargs)

    atexit.register = noted
    yield
    atexit.register = register
    gc.collect()
    for cleanup in kept:
        atexit.unregister(cleanup)
        with contextlib.suppress(BufferError):  # a dataset that outlives its module
            cleanup()


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
