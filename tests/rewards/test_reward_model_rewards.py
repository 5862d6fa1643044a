"""Reward models as rewards: the same scores as one answer at a time in a padded pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from answered import answered
from tiny_reward_models import write_reward_model
from tiny_training import EOS, write_model

from compose_rl.data.encoding import load_tokenizer
from compose_rl.errors import UserError
from compose_rl.evaluation.scoring import rewards
from compose_rl.models.loading import load_reward_model
from compose_rl.rewards.building import RewardContext
from compose_rl.rewards.manager import RewardManager
from compose_rl.rewards.reward_model.loading import model_class_of
from compose_rl.rewards.types import RewardedSample

Make = Callable[..., RewardManager]
PROMPTS = [(5, 6, 7), (8,), (5, 6, 7), (5, 6, 7), (9, 10, 11, 12)]
ANSWERS = [(4, EOS), (9, 9, 9, 9, EOS), (6,), (7, 8, 9), (9, 12, EOS)]
RM = {"rm": {"reward_type": "reward_model"}}


def samples() -> list[RewardedSample]:
    return [
        RewardedSample("", " ".join(f"t{t}" for t in answer if t != EOS), prompt, answer, answer[-1] == EOS)
        for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
    ]


def reference(folder: Path, prompts: list[Any], answers: list[Any]) -> torch.Tensor:
    model = load_reward_model(folder, model_class_of(folder), "float32")
    return rewards(model, [[*p, *a] for p, a in zip(prompts, answers, strict=True)]).float()


@pytest.mark.parametrize("kind", ["linear", "value_head"])
@pytest.mark.parametrize("budget", [1, 12, 16384])
def test_sharing_prompts_changes_no_score(kind: str, budget: int, tmp_path: Path, make: Make) -> None:
    folder = write_reward_model(tmp_path, kind)
    context = RewardContext(load_tokenizer(folder), folder)
    rewarded = make({"rm": RM["rm"] | {"token_budget": budget}}, context).score(samples())
    expected = reference(folder, PROMPTS, ANSWERS)
    assert expected.std() > 0.1
    torch.testing.assert_close(rewarded.totals, expected, rtol=0, atol=1e-5)
    lasts = torch.tensor([len(a) for a in ANSWERS]).cumsum(0) - 1
    torch.testing.assert_close(rewarded.token_rewards[lasts], rewarded.totals)


def test_each_sentence_is_scored_with_all_before_it_at_its_last_token(tmp_path: Path, make: Make) -> None:
    folder = write_reward_model(tmp_path)
    context = RewardContext(load_tokenizer(folder), folder)
    # Words stand for sentences: the tokenizer of the tests has no full stop. "t4" and "t6 t7".
    sample = RewardedSample("", "t4\nt6 t7", (5,), (4, 6, 7, EOS), True)
    keys = {"rm": RM["rm"] | {"granularity": "sentence"}}
    rewarded = make(keys, context).score([sample])
    expected = reference(folder, [(5,), (5,)], [(4,), (4, 6, 7, EOS)])
    torch.testing.assert_close(
        rewarded.token_rewards, torch.tensor([expected[0], 0, 0, expected[1]]), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("granularity", ["document", "sentence"])
def test_a_model_that_cannot_run_packed_gives_the_same(granularity: str, tmp_path: Path, make: Make) -> None:
    folder = write_reward_model(tmp_path)
    context = RewardContext(load_tokenizer(folder), folder)
    made = [make({"rm": RM["rm"] | {"granularity": granularity}}, context) for _ in range(2)]
    padded: Any = made[1]._batched["rm"]
    padded._reader.model = padded_model(folder)
    given = [RewardedSample("", "t4\nt6 t7", (5, 6, 7), (4, 6, 7, EOS), True), *samples()]
    packed, other = (manager.score(given).token_rewards for manager in made)
    torch.testing.assert_close(packed, other, rtol=0, atol=1e-5)


def padded_model(folder: Path) -> Any:
    from compose_rl.models.scoring import LinearScores, make_scoring

    model = load_reward_model(folder, "sequence_classification", "float32")
    make_scoring(model, LinearScores, packed=False)
    return model


def test_a_model_with_another_tokenizer_reads_the_text_in_its_own_tokens(tmp_path: Path, make: Make) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = write_reward_model(tmp_path / "rm")
    # The policy's words are the model's shifted by 10; it has none for the model's t2 to t11.
    words = {"</s>": 0} | {f"t{i + 10}": i for i in range(2, 50)}
    policy = Tokenizer(models.WordLevel(words, unk_token="t12"))
    policy.pre_tokenizer = pre_tokenizers.Whitespace()
    context = RewardContext(PreTrainedTokenizerFast(tokenizer_object=policy, eos_token="</s>"), folder)
    sample = RewardedSample("t15 t16", "t14\nt17 t18", (5, 6), (4, 7, 8, 0), True)
    keys = {"rm": RM["rm"] | {"granularity": "sentence"}}
    rewarded = make(keys, context).score([sample])
    expected = reference(folder, [(15, 16), (15, 16)], [(14,), (14, 17, 18, EOS)])
    torch.testing.assert_close(
        rewarded.token_rewards, torch.tensor([expected[0], 0, 0, expected[1]]), rtol=0, atol=1e-5
    )


def test_a_template_of_its_own_counts_where_the_conversation_is_known(tmp_path: Path, make: Make) -> None:
    folder = write_reward_model(tmp_path)
    policy, own = load_tokenizer(folder), load_tokenizer(folder)
    own.chat_template = "{% for message in messages %}t20 {{ message['content'] }} t21 {% endfor %}"
    own.save_pretrained(folder)
    talk = {"messages": [{"role": "user", "content": "t5 t6"}]}
    # The prompt's text lacks the special token that the policy's template ends with.
    samples = [RewardedSample("t5 t6", "t7", (5, 6, EOS), (7,), False, columns) for columns in ({}, talk)]
    rewarded = make(RM, RewardContext(policy, folder)).score(samples)
    expected = reference(folder, [(5, 6, EOS), (20, 5, 6, 21)], [(7,), (7,)])
    torch.testing.assert_close(rewarded.totals, expected, rtol=0, atol=1e-5)


def test_an_answer_over_the_models_context_is_lost(tmp_path: Path, make: Make) -> None:
    folder = write_reward_model(tmp_path)
    context = RewardContext(load_tokenizer(folder), folder)
    rewarded = make(RM, context).score([answered(tokens=62), answered(tokens=63), answered()])
    assert rewarded.lost.tolist() == [False, True, False]
    assert "has 65 tokens, and the reward model takes 64" in rewarded.failures["rm"].first


def test_a_reward_model_is_not_trained_and_drops_nothing_out(tmp_path: Path, make: Make) -> None:
    folder = write_reward_model(tmp_path, "value_head")
    managed = make(RM, RewardContext(load_tokenizer(folder), folder))
    model = managed._batched["rm"]._reader.model  # type: ignore[attr-defined]
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


def test_what_is_no_reward_model_is_refused(tmp_path: Path, make: Make) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    def bert(**keys: Any) -> BertConfig:
        return BertConfig(8, 8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, **keys)

    folder = write_model(tmp_path / "policy")
    tokenizer = load_tokenizer(folder)
    with pytest.raises(UserError, match="is a 'LlamaForCausalLM'; give an exported reward model"):
        make(RM, RewardContext(tokenizer, folder))
    with pytest.raises(UserError, match="has no model; give the stage the input reward_model"):
        make(RM, RewardContext(tokenizer))
    with pytest.raises(UserError, match=r"no config\.json"):
        make({"rm": RM["rm"] | {"model": str(tmp_path / "nothing")}}, RewardContext(tokenizer))
    BertForSequenceClassification(bert(num_labels=1)).save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match="BertForSequenceClassification does not score a text by a layer"):
        make(RM, RewardContext(tokenizer, tmp_path / "bert"))
    many = write_reward_model(tmp_path / "many", num_labels=3)
    with pytest.raises(UserError, match="gives 3 scores for a text"):
        make(RM, RewardContext(tokenizer, many))
