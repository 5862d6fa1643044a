"""What evaluate refuses before anything heavy is imported, and what its key is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compose_rl.errors import UserError
from compose_rl.stages.evaluate.spec import SPEC
from compose_rl.store.manifest import Manifest


def manifest(stage: str, key: str = "k", **info: Any) -> Manifest:
    return Manifest(
        stage=stage,
        version=1,
        key=key,
        uri=f"/store/{stage}/{key}/manifest.json",
        attempt="1",
        config={},
        info=info,
    )


def inputs(**changes: Manifest) -> dict[str, Manifest]:
    return {
        "policy": manifest("export", model_class="causal_lm", vocab_size=100),
        "baseline": manifest("resolve"),
        "preferences": manifest("tokenize", dataset_type="preference", vocab_size=99),
    } | changes


def test_policy_baseline_and_pairs_are_enough() -> None:
    assert SPEC.parse({}, inputs()).verifier is None


def test_a_pinned_reward_model_may_have_fewer_tokens_of_its_own() -> None:
    judge = manifest("resolve", architectures=["LlamaForSequenceClassification"], num_labels=1, vocab_size=9)
    SPEC.parse({}, inputs(reward_model=judge))


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (
            {"verifier": "gsm8"},
            {},
            r"verifier='gsm8': no such module; give one of: gsm8k, or the dotted path",
        ),
        ({"verifier": "no.such.module"}, {}, r"verifier='no.such.module': no such module"),
        (
            {"verifier": "compose_rl.demo.items.sorted"},
            {},
            r"has no function 'sorted'; it has: named_items, sorted_items, well_formed",
        ),
        ({"temperature": -1}, {}, r"temperature=-1"),
        ({"num_prompt": 3}, {}, r"unknown key 'num_prompt'; did you mean 'num_prompts'"),
        (
            {},
            {"preferences": manifest("tokenize", dataset_type="instruction")},
            r"input 'preferences' .* has dataset_type 'instruction'; it takes preference",
        ),
        (
            {},
            {"reward_model": manifest("export", model_class="causal_lm")},
            r"input 'reward_model' .* is a 'causal_lm'; give the export of a reward model",
        ),
        (
            {},
            {"reward_model": manifest("resolve", architectures=["GPT2LMHeadModel"])},
            r"input 'reward_model' .* is a 'GPT2LMHeadModel'; give the export of a reward model",
        ),
        (
            {},
            {"reward_model": manifest("export", model_class="reward_value_head", vocab_size=98)},
            r"vocabulary of input 'reward_model' has 98 tokens and the tokenizer of 'preferences' 99",
        ),
        (
            {},
            {"policy": manifest("export", model_class="causal_lm", vocab_size=98)},
            r"'policy' has a vocabulary of 98, 'preferences' one of 99; tokenize with this model's tokenizer",
        ),
        (
            {},
            {"policy": manifest("export", model_class="sequence_classification", vocab_size=100)},
            r"input 'policy' .* is a 'sequence_classification'; give a causal language model",
        ),
        (
            {},
            {"policy": manifest("export", model_class="causal_lm_adapter", vocab_size=100)},
            r"input 'policy' .* an adapter alone .*; export it with merge_adapter: true",
        ),
        (
            {},
            {"reward_model": manifest("export", model_class="reward_value_head_adapter")},
            r"input 'reward_model' .* an adapter alone .*; export it with merge_adapter: true",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    config: dict[str, Any], changes: dict[str, Manifest], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        SPEC.parse(config, inputs(**changes))
    assert "\n" not in str(caught.value)


def key(config: dict[str, Any], changes: dict[str, Manifest]) -> str:
    given = inputs(**changes)
    return SPEC.key(SPEC.parse(config, given), given)


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        ({"seed": 1}, {}),
        ({"num_prompts": 3}, {}),
        ({"temperature": 0.5}, {}),
        ({"verifier": "gsm8k"}, {}),
        ({}, {"policy": manifest("export", key="other", model_class="causal_lm")}),
        ({}, {"prompts": manifest("tokenize", dataset_type="single_prompt")}),
        ({}, {"reward_model": manifest("export", model_class="sequence_classification")}),
    ],
)
def test_what_changes_the_result_changes_the_key(
    config: dict[str, Any], changes: dict[str, Manifest]
) -> None:
    assert key(config, changes) != key({}, {})


def test_how_many_answers_are_generated_at_a_time_is_no_part_of_the_key() -> None:
    assert key({"batch_size": 3}, {}) == key({}, {})
    with pytest.raises(UserError, match="batch_size=0"):
        SPEC.parse({"batch_size": 0}, inputs())


def test_the_verifiers_source_is_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "my_own_verifier.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    keys: list[str] = []
    for body in ("return True", "return False"):
        source.write_text(f"def check(prompt, answer, reference):\n    {body}\n")
        keys.append(key({"verifier": "my_own_verifier.check"}, {}))
    assert keys[0] != keys[1]
