"""Checks of online RL's stages, on configuration and manifests alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compose_rl.config.minibatches import check_minibatches
from compose_rl.config.online_rl import OnlineRLSettings, OnlineVariables
from compose_rl.config.rewards import models_by_place, parse_rewards, wants_reward_model
from compose_rl.config.rollouts import RolloutEngine, ServerPlan, ahead_fault
from compose_rl.errors import UserError
from compose_rl.store.manifest import Manifest

__all__ = [
    "PROMPT_TYPES",
    "check_engine",
    "check_prompts",
    "check_rewards",
    "check_sizes",
    "longest_prompt",
    "refuse_foreign_keys",
    "server_plan",
]

PROMPT_TYPES = ("single_prompt", "verifiable_answers", "messages")

GROUP_LOSSES = frozenset({"grpo", "gspo", "rloo", "cispo"})
"""Losses that compare the answers to a prompt with one another."""

_FOREIGN: dict[str, str] = {
    "reference_model": "the reference is the stage's input 'model'",
    "num_train_nodes": "the launcher places trainers and servers; set resources",
    "vllm_enable_prefix_caching": "set variables.engine.prefix_caching",
    "vllm_sync_backend": "set variables.engine.sync",
    "vllm_tensor_parallel_size": "set variables.engine.tensor_parallel_size",
}
"""Compose RL's keys that a stage says otherwise."""


def refuse_foreign_keys(stage: str, variables: OnlineVariables) -> None:
    """Compose RL's keys whose meaning the stage has elsewhere.

    Raises:
        UserError: names the key and what to set instead.
    """
    for name, remedy in _FOREIGN.items():
        if getattr(variables, name) is not None:
            raise UserError(f"{stage}: variables.{name}={getattr(variables, name)!r}: {remedy}; leave it out")
    if variables.vllm_generate_function == "chat":
        raise UserError(
            f"{stage}: variables.vllm_generate_function='chat': tokens are always sent, so that prompts of"
            " engine and trainer agree; set it to generate"
        )
    buffer = (variables.buffer or {}).get("name", "MinibatchRolloutBuffer")
    if buffer != "MinibatchRolloutBuffer":
        raise UserError(
            f"{stage}: variables.buffer.name='{buffer}': there is only MinibatchRolloutBuffer; leave it out"
        )


def check_sizes(stage: str, settings: OnlineRLSettings, variables: OnlineVariables, batch: int) -> None:
    """An iteration's answers fill its optimizer steps, and groups are groups.

    Args:
        batch: ``global_train_batch_size``, answers.

    Raises:
        UserError: with the numbers.
    """
    check_minibatches(variables, batch)
    each = variables.generations_per_prompt
    if settings.loss_type in GROUP_LOSSES and each < 2:
        raise UserError(
            f"{stage}: variables.generations_per_prompt={each}: loss_type='{settings.loss_type}' compares"
            " the answers to a prompt; set it to 2 or more"
        )
    if variables.dynamic_sampling is not None and each < 2:
        raise UserError(
            f"{stage}: variables.generations_per_prompt={each}: dynamic_sampling drops prompts whose answers"
            " all have the same reward; set it to 2 or more, or leave dynamic_sampling out"
        )


def check_prompts(
    stage: str, inputs: Mapping[str, Manifest], max_seq_len: int | None, max_gen_len: int
) -> None:
    """The input ``prompts`` has prompts that the model knows and that leave room for an answer.

    Raises:
        UserError: it has not.
    """
    data = inputs["prompts"]
    given = data.info.get("dataset_type")
    if given not in PROMPT_TYPES:
        raise UserError(
            f"{stage}: input 'prompts' holds '{given}' samples ({data.uri});"
            f" tokenize with dataset_type {' or '.join(PROMPT_TYPES)}"
        )
    if not data.info.get("samples", {}).get("train"):
        raise UserError(
            f"{stage}: input 'prompts' has no training samples ({data.uri}); tokenize data with rows"
        )
    known, tokens = inputs["model"].info.get("vocab_size"), data.info.get("vocab_size")
    if known is not None and tokens is not None and tokens > known:
        raise UserError(
            f"{stage}: the model's vocabulary has {known} tokens and the prompts' tokenizer {tokens};"
            " tokenize with this model's tokenizer"
        )
    longest = data.info.get("longest")
    if max_seq_len is not None and longest is not None and longest + max_gen_len > max_seq_len:
        raise UserError(
            f"{stage}: max_seq_len={max_seq_len} but the longest prompt has {longest} tokens and an answer"
            f" up to max_gen_len={max_gen_len}; raise max_seq_len to {longest + max_gen_len},"
            " or lower max_gen_len"
        )


def check_rewards(
    stage: str,
    rewards: Mapping[str, Mapping[str, Any]],
    code_paths: Sequence[str] | None,
    inputs: Mapping[str, Manifest],
) -> None:
    """There are rewards, all known, and whatever they need of the inputs is there.

    Raises:
        UserError: names the reward and the remedy.
    """
    parsed = parse_rewards(rewards, code_paths)
    if not parsed and "reward_model" not in inputs:
        raise UserError(
            f"{stage}: no reward: set variables.rewards, or give a reward model as input 'reward_model'"
        )
    asked = wants_reward_model(parsed)
    if asked and "reward_model" not in inputs:
        raise UserError(
            f"{stage}: variables.rewards.{asked[0]} is the input 'reward_model', which is missing;"
            " give the export of a reward model, or one that is pinned by resolve"
        )
    for name in models_by_place(parsed):
        raise UserError(
            f"{stage}: variables.rewards.{name} names a model by its place, which the stage's key cannot tell"
            " from another that lies there later; give it as input 'reward_model' (exported, or pinned by"
            " resolve) to the reward_type reward_model without 'model', or serve it to inference_reward_model"
        )
    columns = inputs["prompts"].info.get("columns")
    for name, settings in parsed.items():
        answered = columns is None or not {"verified_answer", "metadata"}.isdisjoint(columns)
        if settings.needs_answer and not answered:
            raise UserError(
                f"{stage}: variables.rewards.{name}: '{settings.reward_type}' compares with the column"
                f" 'verified_answer', and the prompts have {', '.join(columns or ())};"
                " tokenize with dataset_type verifiable_answers"
            )


def check_engine(stage: str, engine: RolloutEngine, max_staleness: int = 0) -> None:
    """Raises UserError where the engine cannot do what is asked of it."""
    fault = ahead_fault(engine, max_staleness)
    if fault is not None:
        raise UserError(f"{stage}: variables.max_staleness={max_staleness}: {fault}")
    sampled: dict[str, Any] = {"servers": engine.servers, "tensor_parallel_size": engine.tensor_parallel_size}
    for name, value in sampled.items():
        if value < 1:
            raise UserError(f"{stage}: variables.engine.{name}={value}; set it to 1 or more")


def longest_prompt(info: Mapping[str, Any]) -> int:
    """Tokens of the longest prompt in tokenized data, or more where its manifest does not say."""
    return int(info.get("longest") or info["max_length"])


def server_plan(
    engine: RolloutEngine, inputs: Mapping[str, Manifest], max_seq_len: int | None, max_gen_len: int
) -> ServerPlan | None:
    """The servers of a stage that generates answers to the input ``prompts``."""
    return ServerPlan.of(engine, max_seq_len or longest_prompt(inputs["prompts"].info) + max_gen_len)
