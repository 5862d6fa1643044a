"""Reward models with a tokenizer of their own read the texts in that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tiny_training import EOS, write_tokenizer  # noqa: E402
from transformers import LlamaConfig, LlamaForSequenceClassification  # noqa: E402

from compose_rl.config.evaluate import Evaluate  # noqa: E402
from compose_rl.data.encoding import load_tokenizer  # noqa: E402
from compose_rl.evaluation.held_out import Pair, Prompt  # noqa: E402
from compose_rl.evaluation.observe import HeldOut, observe_rewards  # noqa: E402
from compose_rl.progress import Progress  # noqa: E402
from compose_rl.rollouts.types import Completion  # noqa: E402


def write_judge(folder: Path) -> Path:
    torch.manual_seed(3)
    config = LlamaConfig(64, 32, 48, 2, 4, initializer_range=0.3, num_labels=1)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def numbered_backwards(judge: Path, folder: Path) -> Path:
    """The same model with its tokens numbered the other way round."""
    model = LlamaForSequenceClassification.from_pretrained(judge)
    embedding = model.get_input_embeddings().weight
    embedding.data = embedding.data.flip(0)
    model.save_pretrained(folder)
    for path in judge.glob("*token*"):
        shutil.copy(path, folder)
    last = len(embedding) - 1
    tokenizer = json.loads((judge / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = {word: last - n for word, n in tokenizer["model"]["vocab"].items()}
    for token in tokenizer["added_tokens"]:
        token["id"] = last - token["id"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def test_the_same_model_with_other_tokens_says_the_same(tmp_path: Path) -> None:
    judge = write_judge(tmp_path / "judge")
    held_out = HeldOut([Pair([5, 6], [7, EOS], [8, 9])], [Prompt([5, 6], "")], load_tokenizer(judge))
    answers = [[Completion((9, 10, 11), (0.0,) * 3, finished=False, version=0)]]
    found = [
        observe_rewards(
            folder, "sequence_classification", Evaluate(), held_out, answers, Progress("test", quiet=True)
        )
        for folder in (judge, numbered_backwards(judge, tmp_path / "backwards"))
    ]
    one, other = (torch.cat([f.chosen, f.rejected, *f.answers]) for f in found)
    assert one.unique().numel() == 3
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
