"""Log-probabilities of the reference against one plain forward pass per answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tiny_training as tiny
import torch
from safetensors.torch import load_file

from compose_rl.errors import UserError
from compose_rl.store.manifest import Manifest

ROWS = tiny.preference_rows(14, seed=5)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Manifest]:
    data = tiny.data_manifest(tmp_path_factory.mktemp("reference-data"), "preference", ROWS[:10], ROWS[10:])
    return {"model": tiny.model_manifest(tiny_model), "data": data}


def logprob(model: Any, prompt: list[int], answer: list[int], temperature: float) -> float:
    """Sum over the answer's tokens, one row at a time, from the whole logits."""
    logits = model(torch.tensor([prompt + answer])).logits[0].double() / temperature
    table = logits.log_softmax(-1)
    return sum(table[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sums_are_those_of_plain_forward_passes_in_dataset_order(
    inputs: dict[str, Manifest], tiny_model: Path, tmp_path: Path, temperature: float
) -> None:
    from transformers import AutoModelForCausalLM

    config = {"token_budget": 90, "mismatched": True, "temperature": temperature}
    result = tiny.run_stage("reference_logprobs", config, inputs, tmp_path)
    folder = Path(result.output("logprobs").uri)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    for split, rows in (("train", ROWS[:10]), ("validation", ROWS[10:])):
        found = load_file(folder / f"{split}.safetensors")
        assert {name: value.dtype for name, value in found.items()} == dict.fromkeys(found, torch.float32)
        for side in ("chosen", "rejected"):
            expected = [logprob(model, row["prompt"], row[side], temperature) for row in rows]
            torch.testing.assert_close(
                found[side].double(), torch.tensor(expected).double(), rtol=1e-5, atol=1e-4
            )
        # Each prompt with the next row's answer: its chosen one where that row's number is even.
        foreign = [(i + 1) % len(rows) for i in range(len(rows))]
        answers = [rows[j]["rejected" if j % 2 else "chosen"] for j in foreign]
        expected = [
            logprob(model, row["prompt"], answer, temperature)
            for row, answer in zip(rows, answers, strict=True)
        ]
        torch.testing.assert_close(
            found["mismatched"].double(), torch.tensor(expected).double(), rtol=1e-5, atol=1e-4
        )
    assert result.info["samples"] == {"train": 10, "validation": 4}


def test_a_model_of_too_few_tokens_is_refused(inputs: dict[str, Manifest], tmp_path: Path) -> None:
    small = tiny.write_model(tmp_path / "small", vocab=tiny.VOCAB - 8)
    # A pinned model's vocabulary is known only when its folder is there.
    found = tiny.model_manifest(small)
    blind = found.model_copy(update={"info": {}})
    with pytest.raises(UserError, match="vocabulary has 56 tokens and the data's tokenizer 64"):
        tiny.run_stage("reference_logprobs", {}, inputs | {"model": blind}, tmp_path)
