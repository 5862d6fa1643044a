"""Rewards that LLM Foundry's registries bring: plug-ins of ``code_paths``, Compose RL's reward models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from answered import answered
from tiny_reward_models import write_reward_model

from compose_rl.config.online_rl import OnlineVariables
from compose_rl.config.rewards import parse_rewards
from compose_rl.data.encoding import load_tokenizer
from compose_rl.errors import UserError
from compose_rl.rewards.building import RewardContext
from compose_rl.rewards.manager import RewardManager

pytest.importorskip("llmfoundry")

from llmfoundry.utils.registry_utils import import_file

from compose_rl.rewards.registry import rewards

Make = Callable[..., RewardManager]

PLUG_IN = """
import sys

class Vowels:
    batched = False

    def __init__(self, settings):
        self.each = settings.each

    def __call__(self, samples):
        return [self.each * sum(c in "aeiou" for c in sample.answer) for sample in samples]

class Capitals:
    batched = True

    def __init__(self, settings, context):
        pass

    def __call__(self, samples):
        return [float(sample.answer.isupper()) for sample in samples]

if "llmfoundry" in sys.modules:
    from compose_rl.rewards.registry import rewards
    rewards.register_class("vowels", func=Vowels)
    rewards.register_class("capitals", func=Capitals)
"""


@pytest.fixture
def plug_in(tmp_path: Path) -> Iterator[str]:
    """A file of rewards, imported as LLM Foundry imports ``code_paths``."""
    file = tmp_path / "plug_in.py"
    file.write_text(PLUG_IN)
    import_file(file)
    yield str(file)
    import catalogue

    for name in ("vowels", "capitals"):
        catalogue.REGISTRY.pop(("llmfoundry", "rewards", name))


def test_a_plug_ins_rewards_are_made_here_and_in_other_processes(plug_in: str) -> None:
    keys: dict[str, Any] = {"v": {"reward_type": "vowels", "each": 2}, "c": {"reward_type": "capitals"}}
    variables = OnlineVariables(max_gen_len=8, num_unique_prompts_per_iter=1)
    managed = RewardManager(parse_rewards(keys, [plug_in]), variables, RewardContext(None), workers=1)
    rewarded = managed.score([answered("banana"), answered("A")])
    managed.close()
    assert rewarded.components["v"].tolist() == [6, 0]
    assert rewarded.components["c"].tolist() == [0, 1]


def test_a_name_that_nothing_registers_is_refused_when_code_was_run() -> None:
    settings = parse_rewards({"x": {"reward_type": "vowel"}}, ["some.py"])
    variables = OnlineVariables(max_gen_len=8, num_unique_prompts_per_iter=1)
    with pytest.raises(UserError, match="'vowel' is not registered; there are: bad_generation_end, "):
        RewardManager(settings, variables, RewardContext(None))


def test_the_projects_rewards_are_in_the_registry() -> None:
    from compose_rl.rewards.gsm8k_verifier import GSM8KVerifier

    assert rewards.get("gsm8k_verifier") is GSM8KVerifier


def test_compose_rls_pairwise_model_scores_as_the_exported_one(tmp_path: Path, make: Make) -> None:
    folder = write_reward_model(tmp_path / "rm", "value_head")
    context = RewardContext(load_tokenizer(folder), folder)
    keys = {
        "reward_type": "hf_pairwise",
        "granularity": "document",
        "model_config": {
            "name": "hf_pairwise_rm",
            "head": "value_head",
            "p_dropout": 0.5,
            "bias": 0.25,
            "pretrained_model_name_or_path": str(folder),
        },
    }
    samples = [answered(tokens=n) for n in (1, 4, 9)]
    built = make({"rm": keys}, context).score(samples)
    exported = make({"rm": {"reward_type": "reward_model"}}, context).score(samples)
    torch.testing.assert_close(built.totals, exported.totals, rtol=0, atol=1e-5)


def test_compose_rls_pairwise_model_takes_a_checkpoints_weights(tmp_path: Path, make: Make) -> None:
    from compose_rl.models.loading import load_reward_model

    start, trained = write_reward_model(tmp_path / "start"), tmp_path / "trained"
    model = load_reward_model(start, "sequence_classification", "float32")
    with torch.no_grad():
        model.score.weight.mul_(-2)
    model.save_pretrained(trained)
    load_tokenizer(start).save_pretrained(trained)
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state": {"model": state}}, tmp_path / "model.pt")
    context = RewardContext(load_tokenizer(start), trained)
    keys = {
        "reward_type": "hf_pairwise",
        "load_path": str(tmp_path / "model.pt"),
        "model_config": {"head": "linear", "pretrained_model_name_or_path": str(start)},
    }
    samples = [answered(tokens=n) for n in (1, 4, 9)]
    built = make({"rm": keys}, context).score(samples)
    exported = make({"rm": {"reward_type": "reward_model"}}, context).score(samples)
    torch.testing.assert_close(built.totals, exported.totals, rtol=0, atol=1e-5)
    torch.save({"state": {"model": {"model.other": torch.zeros(1)}}}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="its weights are of another model"):
        make({"rm": keys}, context)


def test_compose_rls_mpt_model_scores_answers(tmp_path: Path, make: Make) -> None:
    folder = write_reward_model(tmp_path)
    keys = {
        "reward_type": "mpt_pairwise",
        "model_config": {
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 32,
            "vocab_size": 64,
            "attn_config": {"attn_impl": "torch"},
            "init_device": "cpu",
            "p_dropout": 0.5,
        },
    }
    managed = make({"rm": keys}, RewardContext(load_tokenizer(folder)))
    samples = [answered(tokens=n) for n in (1, 4, 4)]
    first, second = (managed.score(samples).totals.tolist() for _ in range(2))
    assert first == second, "something is dropped out"
    assert first[1] == pytest.approx(first[2], abs=1e-5) != pytest.approx(first[0], abs=1e-3)
