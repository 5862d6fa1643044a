"""Names and keys of rewards, checked without importing anything heavy."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from compose_rl.config.reward_types import REWARDS
from compose_rl.config.rewards import models_by_place, parse_rewards, reward_code, wants_reward_model
from compose_rl.errors import UserError

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
JUDGE = {
    "reward_type": "llm_judge",
    "base_url": "http://judge:8000/v1/",
    "model": "m",
    "template": "{answer}",
}

ORIGINAL = """
math_verifier: {reward: 4, reward_type: math_verifier}
bad_generation_end: {reward: -1, eos_penalty: true, reward_type: bad_generation_end}
math_format_verifier: {reward: 1, reward_type: math_format_verifier}
penalize_extra_short_responses: {reward: -1, reward_type: short_response_reward, len_threshold: 10}
output_length: {reward_type: output_length, max_gen_len: 128}
reward_model:
  reward_type: hf_pairwise
  granularity: document
  load_path: /checkpoints/rm
  precision: amp_bf16
  model_config: {name: hf_pairwise_rm, pretrained_model_name_or_path: a/b}
remote: {reward_type: inference_reward_model, deployment: "http://rm:8080", max_retries: 3}
"""


def test_a_document_in_the_originals_keys_is_taken() -> None:
    rewards = parse_rewards(yaml.safe_load(ORIGINAL))
    assert [settings.reward_type for settings in rewards.values()][:3] == [
        "math_verifier",
        "bad_generation_end",
        "math_format_verifier",
    ]


def test_every_reward_is_registered_and_every_registered_one_has_its_keys() -> None:
    project = tomllib.loads(PROJECT.read_text())["project"]
    assert project["entry-points"]["llmfoundry_rewards"].keys() == REWARDS.keys()


@pytest.mark.parametrize(
    "keys, line",
    [
        ({}, "reward_type=None: name one of bad_generation_end, "),
        ({"reward_type": "gsm8k_verifer"}, "did you mean 'gsm8k_verifier'?"),
        ({"reward_type": "no_module_here.reward"}, "no module 'no_module_here'"),
        ({"reward_type": "compose_rl.errors.reward"}, "has no function 'reward'"),
        ({"reward_type": "gsm8k_verifier", "rewards": 1}, "did you mean 'reward'?"),
        ({"reward_type": "gsm8k_verifier", "reward": 0}, "reward=0"),
        ({"reward_type": "gsm8k_verifier", "coefficient": float("nan")}, "coefficient=nan"),
        ({"reward_type": "output_length"}, "'max_gen_len' is missing"),
        ({"reward_type": "bad_generation_end", "reward": -1, "eos_penalty": False}, "extra_special_tokens"),
        ({"reward_type": "reward_model", "granularity": "subsentence"}, "give sentence"),
        ({"reward_type": "inference_reward_model", "url": "my-deployment"}, "give http://HOST:PORT"),
        ({"reward_type": "inference_reward_model", "url": "http://u:secret@h"}, "without user and password"),
        (JUDGE | {"template": "How good?"}, "template lacks {answer}"),
        (JUDGE | {"score_regex": r"\d+"}, "has no group"),
        (JUDGE | {"score_regex": "("}, "no regular expression"),
        (JUDGE | {"api_key": "sk-1"}, "unknown key 'api_key'"),
    ],
)
def test_bad_rewards_are_named_with_their_remedy(keys: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_rewards({"mine": keys})
    message = str(caught.value)
    assert message.startswith("variables.rewards.mine") and line in message
    assert "secret" not in message and "\n" not in message


def test_a_name_that_a_file_of_code_registers_passes_with_its_keys() -> None:
    keys = {"reward_type": "of_a_plug_in", "coefficient": 2, "anything": [1]}
    with pytest.raises(UserError, match="code_paths"):
        parse_rewards({"mine": keys})
    mine = parse_rewards({"mine": keys}, ["plugin.py"])["mine"]
    assert mine.model_dump() == keys | {"clip": None}


def test_a_functions_source_is_part_of_the_key_and_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "my_reward_function.py"
    file.write_text("raise SystemExit\ndef reward(prompt, answer, reference): return 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    rewards = parse_rewards({"a": {"reward_type": "my_reward_function.reward"}})
    first = reward_code(rewards)
    assert list(first) == ["my_reward_function.reward"]
    file.write_text("raise SystemExit\ndef reward(prompt, answer, reference): return 2.0\n")
    assert reward_code(rewards) != first


def test_what_a_reward_needs_of_the_inputs_is_known() -> None:
    rewards = parse_rewards(
        {
            "rm": {"reward_type": "reward_model"},
            "other": {"reward_type": "reward_model", "model": "/models/rm"},
            "right": {"reward_type": "gsm8k_verifier"},
            "format": {"reward_type": "gsm8k_format_verifier"},
            "judge": JUDGE,
            "comparing": JUDGE | {"template": "{answer} or {reference}?"},
        }
    )
    assert wants_reward_model(rewards) == ["rm"]
    assert models_by_place(rewards) == ["other"]
    assert [name for name, settings in rewards.items() if settings.needs_answer] == ["right", "comparing"]
