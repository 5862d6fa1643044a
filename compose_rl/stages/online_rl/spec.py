"""Online RL: what it takes and what it makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

from pydantic import model_validator

from compose_rl.config.online_rl import CRITIC_LOSSES, OnlineRLSettings, OnlineVariables
from compose_rl.config.rewards import parse_rewards, reward_code
from compose_rl.config.rollouts import ServerPlan
from compose_rl.config.training import HFModel, TrainingConfig, canonical_training, code_files
from compose_rl.errors import UserError
from compose_rl.stages.checks import check_reward_model
from compose_rl.stages.online_checks import (
    PROMPT_TYPES,
    check_engine,
    check_prompts,
    check_rewards,
    check_sizes,
    refuse_foreign_keys,
    server_plan,
)
from compose_rl.stages.spec import TRAINING_OUTPUTS, Slot, StageSpec
from compose_rl.store.manifest import Manifest

__all__ = ["SPEC", "OnlineRLConfig"]

ACTOR_CRITIC = ("hf_actor_critic_lm", "hf_ppo_lm")
CRITIC_FREE = ("hf_critic_free_lm",)


class OnlineModel(HFModel, OnlineRLSettings):
    """``model:`` of ``hf_actor_critic_lm`` (``ppo``) and ``hf_critic_free_lm`` (the other losses)."""

    name: Literal["hf_actor_critic_lm", "hf_ppo_lm", "hf_critic_free_lm"]
    """By default the one that has the loss."""
    packed: bool = True
    """False: padded rows, for architectures that cannot run packed."""

    @model_validator(mode="before")
    @classmethod
    def _named_by_loss(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or "name" in given:
            return given
        section = cast(Mapping[str, Any], given)
        fitting = ACTOR_CRITIC if section.get("loss_type", "ppo") in CRITIC_LOSSES else CRITIC_FREE
        return {**section, "name": fitting[0]}


class OnlineRLConfig(TrainingConfig):
    """LLM Foundry's training document over ``compose_rl/recipes/online_rl.yaml``."""

    recipe: ClassVar[str] = "online_rl"
    model: OnlineModel
    variables: OnlineVariables  # type: ignore[assignment]


def _check(config: OnlineRLConfig, inputs: Mapping[str, Manifest]) -> None:
    settings, variables = config.model, config.variables
    refuse_foreign_keys("online_rl", variables)
    _check_model(config)
    check_sizes("online_rl", settings, variables, config.global_train_batch_size)
    room = None if config.train_loader.get("drop_long") else config.max_seq_len
    check_prompts("online_rl", inputs, room, variables.max_gen_len)
    check_rewards("online_rl", variables.rewards, config.code_paths, inputs)
    for slot in ("reward_model", "critic"):
        check_reward_model("online_rl", slot, inputs)
    check_engine("online_rl", variables.engine, variables.max_staleness)
    if "critic" in inputs and (not settings.has_critic or settings.joint_actor_critic):
        raise UserError(
            f"online_rl: input 'critic' is given, but with loss_type='{settings.loss_type}' and"
            f" joint_actor_critic={settings.joint_actor_critic} no critic of its own is trained;"
            " set model.loss_type: ppo and model.joint_actor_critic: false, or leave the input out"
        )
    if settings.loss_type == "apo":
        _check_vstar(inputs)
    elif "vstar" in inputs:
        raise UserError(
            f"online_rl: input 'vstar' is given, but only loss_type 'apo' reads it and it is"
            f" '{settings.loss_type}'; leave it out"
        )


def _check_model(config: OnlineRLConfig) -> None:
    settings, variables = config.model, config.variables
    fitting = ACTOR_CRITIC if settings.has_critic else CRITIC_FREE
    if settings.name not in fitting:
        raise UserError(
            f"online_rl: model.name='{settings.name}' has no loss_type='{settings.loss_type}';"
            f" set model.name: {fitting[0]}"
        )
    sampled = variables.generation_kwargs.temperature
    if settings.temperature not in (None, sampled):
        raise UserError(
            f"online_rl: model.temperature={settings.temperature} but answers are sampled at"
            f" variables.generation_kwargs.temperature={sampled}; leave model.temperature out"
        )
    if not settings.pretrained:
        raise UserError(
            "online_rl: model.pretrained=False: a policy of random weights has no reference; set it to true"
        )


def _check_vstar(inputs: Mapping[str, Manifest]) -> None:
    columns = inputs["prompts"].info.get("columns", [])
    if "vstar" in inputs:
        given = inputs["vstar"]
        if given.inputs["prompts"].key != inputs["prompts"].key:
            raise UserError(
                f"online_rl: input 'vstar' ({given.uri}) was computed on other prompts"
                f" ({given.inputs['prompts'].uri}); run vstar on the prompts given here"
            )
    elif "vstar" not in columns:
        raise UserError(
            "online_rl: loss_type='apo' needs the optimal value of each prompt; give the stage vstar's result"
            " as input 'vstar', or prompts with a column 'vstar'"
        )


def _code(config: OnlineRLConfig) -> dict[str, str]:
    return code_files(config) | reward_code(parse_rewards(config.variables.rewards, config.code_paths))


def _servers(config: OnlineRLConfig, inputs: Mapping[str, Manifest]) -> ServerPlan | None:
    variables = config.variables
    return server_plan(variables.engine, inputs, config.max_seq_len, variables.max_gen_len)


SPEC = StageSpec(
    name="online_rl",
    version=1,
    doc="Optimise a policy on its own answers: ppo, grpo, gspo, rloo, cispo or apo.",
    config=OnlineRLConfig,
    inputs={
        "model": Slot(stages=("resolve", "export"), doc="the policy to start from, and the reference"),
        "prompts": Slot(stages=("tokenize",), doc=f"prompts: {', '.join(PROMPT_TYPES)} data"),
        "reward_model": Slot(stages=("resolve", "export"), doc="a reward model", optional=True),
        "critic": Slot(
            stages=("export",),
            doc="what a critic of its own starts from; by default the reward model, else the policy",
            optional=True,
        ),
        "vstar": Slot(stages=("vstar",), doc="optimal values of the prompts, for apo", optional=True),
    },
    outputs={
        **TRAINING_OUTPUTS,
        "samples": "samples.jsonl: answers of every iteration with their rewards",
        "report": "report.html, metrics.json",
    },
    distributed=True,
    accelerated=True,
    check=_check,
    canonical=canonical_training,
    code=_code,
    servers=_servers,
)
