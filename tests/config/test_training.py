"""The document of a training stage, before anything heavy is imported."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from compose_rl.config.document import merge
from compose_rl.config.schema import parse
from compose_rl.config.training import canonical_training, code_files
from compose_rl.errors import UserError
from compose_rl.stages.offline_rl.spec import OfflineRLConfig
from compose_rl.stages.online_rl.spec import OnlineRLConfig
from compose_rl.stages.sft.spec import SFTConfig


def key_part(document: dict[str, Any]) -> dict[str, Any]:
    return canonical_training(parse(SFTConfig, document, "sft config"))


def test_overrides_are_laid_over_the_recipe() -> None:
    config = parse(SFTConfig, {"optimizer": {"lr": 0.5}, "max_duration": "3ba"}, "sft config")
    assert config.optimizer["lr"] == 0.5
    assert config.optimizer["name"] == "decoupled_adamw"
    assert config.max_duration == "3ba"


def test_another_name_replaces_the_options_of_the_first() -> None:
    base = {"optimizer": {"name": "adam", "betas": [0.9, 0.95], "lr": 1}}
    assert merge(base, {"optimizer": {"name": "sgd", "lr": 2}}) == {"optimizer": {"name": "sgd", "lr": 2}}
    assert merge(base, {"optimizer": {"name": "adam", "lr": 2}})["optimizer"]["betas"] == [0.9, 0.95]


def test_a_recorded_configuration_parses_to_itself() -> None:
    for schema in (SFTConfig, OfflineRLConfig):
        config = parse(schema, {"eval_loader": None, "seed": 3}, "config")
        assert parse(schema, config.model_dump(mode="json"), "config") == config


@pytest.mark.parametrize(
    "neutral",
    [
        {"loggers": {"wandb": {"project": "x"}}},
        {"run_name": "x"},
        {"eval_interval": "7ba"},
        {"save_interval": "7ba"},
        {"callbacks": {"speed_monitor": {"window_size": 3}}},
        {"train_loader": {"pin_memory": False, "prefetch_factor": 4}},
        {"python_log_level": "debug", "log_to_console": True},
    ],
)
def test_what_only_watches_is_no_part_of_the_key(neutral: dict[str, Any]) -> None:
    assert key_part(neutral) == key_part({})


@pytest.mark.parametrize(
    "shaping",
    [
        {"seed": 18},
        {"optimizer": {"lr": 1.0}},
        {"scheduler": {"alpha_f": 0.5}},
        {"algorithms": {"gradient_clipping": {"clipping_threshold": 2.0}}},
        {"model": {"peft_config": {"peft_type": "LORA"}}},
        {"callbacks": {"early_stopper": {"monitor": "loss"}}},
        {"train_loader": {"token_budget": 7}},
        {"device_train_microbatch_size": 1},
        {"global_train_batch_size": 1},
        {"precision": "amp_bf16"},
        {"max_duration": "2ep"},
        {"fsdp_config": {}},
    ],
)
def test_what_shapes_the_weights_is_part_of_the_key(shaping: dict[str, Any]) -> None:
    assert key_part(shaping) != key_part({})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"optimzer": {}}, "sft config: unknown key 'optimzer'; did you mean 'optimizer'?"),
        (
            {"model": {"peft_confg": {}}},
            "sft config.model: unknown key 'peft_confg'; did you mean 'peft_config'?",
        ),
        (
            {"train_loader": {"token_budge": 1}},
            "train_loader: unknown key 'token_budge'; did you mean 'token_budget'?",
        ),
        ({"save_folder": "x"}, "'save_folder' is set by the stage itself; take it out"),
        ({"global_train_batch_size": 0}, "global_train_batch_size=0"),
    ],
)
def test_a_wrong_key_is_refused_with_its_remedy(document: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(SFTConfig, document, "sft config")
    assert message in str(error.value)


def test_a_loader_of_prompts_has_keys_of_its_own() -> None:
    def document(**keys: Any) -> dict[str, Any]:
        return {"model": {"name": "hf_critic_free_lm"}, "train_loader": {"name": "prompt", **keys}}

    parse(OnlineRLConfig, document(curriculum="level", drop_long=True, drop_last=True), "config")
    parse(OnlineRLConfig, document(dataset={"max_gen_len": 32, "predownload": 1000}), "config")
    with pytest.raises(UserError, match="train_loader: unknown key 'curiculum'; did you mean 'curriculum'"):
        parse(OnlineRLConfig, document(curiculum="level"), "config")
    with pytest.raises(UserError, match="train_loader: unknown key 'kl_pairs'"):
        parse(OnlineRLConfig, document(kl_pairs=True), "config")


def test_code_paths_count_by_content_and_not_by_place(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text("x = 1")
    configs = [parse(SFTConfig, {"code_paths": [str(tmp_path / f / "mine.py")]}, "c") for f in ("a", "b")]
    assert canonical_training(configs[0]) == canonical_training(configs[1])
    assert code_files(configs[0]) == code_files(configs[1])
    (tmp_path / "b" / "mine.py").write_text("x = 2")
    assert code_files(configs[0]) != code_files(configs[1])
    with pytest.raises(UserError, match=r"code_paths='none.py'.*give a readable Python file"):
        code_files(parse(SFTConfig, {"code_paths": ["none.py"]}, "c"))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"optimizer": {"learning_rate": 1}}, "optimizer: unknown key 'learning_rate'"),
        (
            {"optimizer": {"weight_decai": 1}},
            "optimizer: unknown key 'weight_decai'; did you mean 'weight_decay'?",
        ),
        ({"scheduler": {"t_warm": "1ba"}}, "scheduler: unknown key 't_warm'; did you mean 't_warmup'?"),
    ],
)
def test_a_misspelt_key_of_an_optimizer_or_scheduler_is_refused(
    document: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        parse(SFTConfig, document, "sft config")


def test_keys_of_optimizers_that_users_register_pass() -> None:
    own = {"optimizer": {"name": "my_optimizer", "momentum_of_mine": 1}}
    assert parse(SFTConfig, own, "sft config").optimizer["momentum_of_mine"] == 1
