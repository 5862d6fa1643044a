"""Reward models: packed and padded scores agree, losses learn, folders load elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tiny_training as tiny
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from compose_rl.core.packing import pack
from compose_rl.core.padded import PaddedAnswers, pad_answers
from compose_rl.errors import UserError
from compose_rl.models.description import write_description
from compose_rl.models.reward import (
    ComposerHFCausalClassifierRewardModel,
    ComposerHFClassifierRewardModel,
    ComposerHFPairwiseRewardModel,
)
from compose_rl.models.reward_mpt import ComposerMPTPairwiseRewardModel

pytestmark = pytest.mark.filterwarnings("ignore")

LORA = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj", "v_proj"],
}
HEADS: dict[str, dict[str, Any]] = {"linear": {}, "value_head": {"bias": 0.25}}


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def pairs() -> dict[str, Any]:
    """Prompts of 5 and 2 tokens, answers of 3 and 4, of 6 and 1."""
    lengths = torch.tensor([[5, 3, 4], [2, 6, 1]])
    tokens = torch.randint(2, tiny.VOCAB, (21,), generator=torch.Generator().manual_seed(0))
    return {"tokens": tokens, "lengths": lengths, "weight": torch.ones(2)}


@pytest.fixture(scope="module")
def texts(pairs: dict[str, Any]) -> dict[str, Any]:
    lengths = torch.tensor([[12], [9]])
    return {
        "tokens": pairs["tokens"],
        "lengths": lengths,
        "weight": torch.ones(2),
        "label": torch.tensor([1.0, 0.0]),
    }


def padded(batch: dict[str, Any]) -> PaddedAnswers:
    return pad_answers(pack(batch["tokens"], batch["lengths"]), tiny.PAD)


def mpt(tokenizer: Any, **keys: Any) -> ComposerMPTPairwiseRewardModel:
    torch.manual_seed(0)
    attention = {"attn_impl": "torch"}
    return ComposerMPTPairwiseRewardModel(
        tokenizer,
        d_model=32,
        n_heads=2,
        n_layers=2,
        max_seq_len=32,
        vocab_size=64,
        attn_config=attention,
        **keys,
    )


@pytest.mark.parametrize("head", HEADS)
def test_scores_are_those_of_the_exported_model(
    tiny_model: Path, tokenizer: Any, pairs: dict[str, Any], head: str, tmp_path: Path
) -> None:
    model = ComposerHFPairwiseRewardModel(tokenizer, str(tiny_model), head=head, **HEADS[head])
    scores = model(pairs)
    model.model.save_pretrained(tmp_path)
    rows = padded(pairs)
    if head == "linear":
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        expected = loaded(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits[:, 0]
        assert loaded.config.architectures == ["LlamaForSequenceClassification"]
        assert loaded.config.problem_type == "regression"
        assert (loaded.config.num_labels, loaded.config.pad_token_id) == (1, tiny.PAD)
    else:
        loaded = AutoModel.from_pretrained(tmp_path)
        expected = loaded.score(rows.input_ids, rows.attention_mask)
        everywhere = loaded(input_ids=rows.input_ids, attention_mask=rows.attention_mask).scores
        by_hand = loaded.value_head(
            loaded.lm_backbone.model(
                input_ids=rows.input_ids, attention_mask=rows.attention_mask
            ).last_hidden_state
        )[..., 0]
        torch.testing.assert_close(everywhere, by_hand - 0.25)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)
    again = ComposerHFPairwiseRewardModel(tokenizer, str(tmp_path), head=head, packed=False, **HEADS[head])
    torch.testing.assert_close(again(pairs), scores, rtol=1e-5, atol=1e-6)


def test_an_answer_does_not_see_the_other(tiny_model: Path, tokenizer: Any, pairs: dict[str, Any]) -> None:
    model = ComposerHFPairwiseRewardModel(tokenizer, str(tiny_model), head="linear")
    other = pairs["tokens"].clone()
    other[8:12] = 7  # the first pair's rejected answer
    before, after = model(pairs), model({**pairs, "tokens": other})
    torch.testing.assert_close(before[[0, 2, 3]], after[[0, 2, 3]])
    assert before[1] != after[1]


def test_the_loss_is_bradley_terry(tiny_model: Path, tokenizer: Any, pairs: dict[str, Any]) -> None:
    model = ComposerHFPairwiseRewardModel(tokenizer, str(tiny_model))
    scores = torch.tensor([1.0, 0.0, 0.0, 1.0])
    # (log(1 + e^-1) + log(1 + e^1)) / 2 = (0.313262 + 1.313262) / 2
    assert model.loss(scores, pairs)["total"].item() == pytest.approx(0.813262, abs=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_lora_trains_the_head_too(tiny_model: Path, tokenizer: Any, pairs: dict[str, Any], head: str) -> None:
    model = ComposerHFPairwiseRewardModel(tokenizer, str(tiny_model), head=head, peft_config=dict(LORA))
    model.loss(model(pairs), pairs)["total"].backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert any("score" in name for name in trained)
    assert all("lora_" in name or "modules_to_save" in name for name in trained)


def test_every_trained_weight_has_a_gradient(tiny_model: Path, tokenizer: Any, pairs: dict[str, Any]) -> None:
    for model in (
        ComposerHFPairwiseRewardModel(tokenizer, str(tiny_model), head="value_head"),
        mpt(tokenizer, tie_word_embeddings=False),
    ):
        model.loss(model(pairs), pairs)["total"].backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_inference_scores_every_position_within_the_thresholds(
    tiny_model: Path, tokenizer: Any, pairs: dict[str, Any]
) -> None:
    rows = padded(pairs)
    batch = {"is_inference": True, "input_ids": rows.input_ids, "attention_mask": rows.attention_mask}
    torch.manual_seed(0)
    model = ComposerHFPairwiseRewardModel(
        tokenizer, str(tiny_model), head="value_head", min_threshold=-0.1, max_threshold=0.1
    )
    everywhere = model(batch)
    assert everywhere.shape == rows.input_ids.shape
    assert everywhere.abs().max().item() == pytest.approx(0.1)
    expected = model(pairs).clamp(-0.1, 0.1)
    torch.testing.assert_close(everywhere[torch.arange(4), rows.ends], expected, rtol=1e-5, atol=1e-6)


def test_a_classifier_keeps_labels_apart(tiny_model: Path, tokenizer: Any, texts: dict[str, Any]) -> None:
    model = ComposerHFClassifierRewardModel(tokenizer, str(tiny_model), config_overrides={"n_labels": 3})
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    scores = model(texts)
    assert scores.shape == (2, 3)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(scores, labels)
    torch.testing.assert_close(model.loss(scores, {**texts, "label": labels})["total"], expected)


@pytest.mark.parametrize("tied", [False, True])
def test_an_end_token_classifier_starts_anew_only_once(
    tmp_path: Path, tokenizer: Any, texts: dict[str, Any], tied: bool
) -> None:
    """B6: the output layer is not wiped on load, and input embeddings never are."""
    base = tiny.write_model(tmp_path / "base", tied=tied)
    model = ComposerHFCausalClassifierRewardModel(tokenizer, str(base))
    embeddings = AutoModelForCausalLM.from_pretrained(base).get_input_embeddings().weight
    assert torch.equal(model.model.get_input_embeddings().weight, embeddings)
    assert model(texts).tolist() == [0, 0]
    with torch.no_grad():
        model.model.lm_head.weight[tiny.EOS] += torch.linspace(-1, 1, 64)
    trained = model(texts)
    assert trained.abs().min() > 0
    model.model.save_pretrained(tmp_path / "trained")
    loaded = ComposerHFCausalClassifierRewardModel(tokenizer, str(tmp_path / "trained"))
    torch.testing.assert_close(loaded(texts), trained)
    resumed = ComposerHFCausalClassifierRewardModel(tokenizer, str(base))
    resumed.load_state_dict(model.state_dict())
    torch.testing.assert_close(resumed(texts), trained)


def test_mpt_scores_an_answer_as_if_it_stood_alone(tokenizer: Any, pairs: dict[str, Any]) -> None:
    model = mpt(tokenizer, bias=0.5).eval()
    scores = model(pairs)
    alone = pairs["tokens"][12:20][None]  # the second pair's prompt and chosen answer
    hidden = model.model.transformer(input_ids=alone).last_hidden_state[0, -1]
    torch.testing.assert_close(scores[2], model.model.value_head(hidden)[0] - 0.5, rtol=1e-5, atol=1e-6)
    assert set(model.get_metrics(is_train=False)) >= {"PairwiseRewardAccuracy"}


def test_what_cannot_be_is_refused(tiny_model: Path, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="return_last"):
        ComposerHFPairwiseRewardModel(tokenizer, str(tiny_model), return_last=False)
    with pytest.raises(UserError, match="this model has bce"):
        ComposerHFClassifierRewardModel(tokenizer, str(tiny_model), loss_type="bt")
    with pytest.raises(UserError, match="MPT has no sequence classifier"):
        mpt(tokenizer, head="linear")
    same = AutoTokenizer.from_pretrained(tiny_model)
    same.pad_token = same.eos_token
    same.add_special_tokens({"bos_token": "<pad>"})
    with pytest.raises(UserError, match=r"pad_token of its own, or set model.head: value_head"):
        ComposerHFPairwiseRewardModel(same, str(tiny_model), head="linear")


def without_padding(tiny_model: Path, folder: Path, spare: list[str]) -> Path:
    """The tiny model with the tokenizer of a Llama 3: no padding token, but spare ones."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = None
    words = {name: f"t{50 + i}" for i, name in enumerate(spare)}
    shutil.copytree(tiny_model, folder)
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / file).unlink()
    document = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = document["model"]["vocab"]
    document["added_tokens"] = []
    for name, word in words.items():
        vocabulary[name] = vocabulary.pop(word)
        document["added_tokens"].append(_special(vocabulary[name], name))
    document["added_tokens"].append(_special(tiny.EOS, "</s>"))
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": "</s>",
                "chat_template": "{{ messages[0].content }}<|eot_id|>",
            }
        )
    )
    return folder


def _special(number: int, content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, "special": True, **flags}


@pytest.mark.parametrize(
    ("spare", "chosen"),
    [
        (["<|eot_id|>", "<|python_tag|>", "<|reserved_special_token_0|>"], "<|reserved_special_token_0|>"),
        (["<|reserved_special_token_0|>", "<|finetune_right_pad_id|>"], "<|finetune_right_pad_id|>"),
        (["<|eot_id|>", "<|fim_prefix|>"], "<|fim_prefix|>"),
    ],
)
def test_a_linear_head_takes_a_spare_token_for_padding(
    tiny_model: Path, pairs: dict[str, Any], tmp_path: Path, spare: list[str], chosen: str
) -> None:
    """It scores the last token that is not padding, so padding must be what no text ends in."""
    base = without_padding(tiny_model, tmp_path / "base", spare)
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert tokenizer.pad_token is None
    model = ComposerHFPairwiseRewardModel(tokenizer, str(base), head="linear")
    folder = tmp_path / "written"
    model.model.save_pretrained(folder)
    write_description(model.model, base, folder)
    written = AutoTokenizer.from_pretrained(folder)
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert written.pad_token == chosen
    assert written.pad_token_id == loaded.config.pad_token_id == tokenizer.pad_token_id
    assert len(written) == tiny.VOCAB
    # Several rows of unlike lengths, which the classifier finds the ends of by its padding token.
    rows = pad_answers(pack(pairs["tokens"], pairs["lengths"]), written.pad_token_id)
    expected = loaded(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits[:, 0]
    torch.testing.assert_close(model(pairs), expected, rtol=1e-5, atol=1e-6)


def test_the_tokenizers_own_padding_stays(tiny_model: Path, tokenizer: Any) -> None:
    model = ComposerHFPairwiseRewardModel(tokenizer, str(tiny_model), head="linear")
    assert (tokenizer.pad_token, model.model.config.pad_token_id) == ("<pad>", tiny.PAD)
