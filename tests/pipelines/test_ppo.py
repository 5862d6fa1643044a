"""The online pipeline: what runs when, and what its parameters set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kfp")

from kfp.dsl.graph_component import GraphComponent

from compose_rl.demo.__main__ import write_parameters
from compose_rl.errors import UserError
from compose_rl.stages.online_rl.spec import SPEC
from pipelines.checks import Step, check, steps
from pipelines.dpo import dpo
from pipelines.parameters import declared, read_file, with_defaults
from pipelines.ppo import ppo

GIVEN = {"base_model": "m", "prompts": "q.jsonl", "storage": "/s"}
SIZES = "variables: {num_unique_prompts_per_iter: 8, generations_per_prompt: 8}, global_train_batch_size: 64"


def values(**changed: object) -> dict[str, Any]:
    return with_defaults({**GIVEN, **changed}, declared(ppo.pipeline_spec))


def found(**changed: object) -> Mapping[str, Step]:
    return {step.name: step for step in steps(ppo.pipeline_spec, values(**changed))}


def test_every_step_is_there_and_what_is_not_given_is_absent() -> None:
    given = found()
    assert set(given) >= {"sft", "reward_model", "vstar", "online_rl", "export_policy", "evaluate"}
    assert {name for name, step in given.items() if step.absent} == {
        *("resolve_preferences", "resolve_validation", "resolve_instructions", "resolve_reward_model"),
        *("resolve_evaluation_prompts", "vstar"),
    }


@pytest.mark.parametrize("pipeline", [ppo, dpo])
@pytest.mark.parametrize("given", ["", "org/judge"])
def test_a_reward_model_that_is_given_is_taken_and_none_is_trained(
    pipeline: GraphComponent, given: str
) -> None:
    known = declared(pipeline.pipeline_spec)
    changed = {**GIVEN, "preferences": "pairs.jsonl", "reward_model": given}
    found = {step.name: step for step in steps(pipeline.pipeline_spec, with_defaults(changed, known))}
    assert found["resolve_reward_model"].absent == (not given)
    assert found["reward_model"].absent == bool(given)
    # The preferences are there for the evaluation all the same.
    assert not found["resolve_preferences"].absent


@pytest.mark.parametrize("loss_type", ["ppo", "grpo", "gspo", "rloo", "cispo", "apo"])
def test_optimal_values_are_for_apo_alone(loss_type: str) -> None:
    assert found(loss_type=loss_type)["vstar"].absent == (loss_type != "apo")


@pytest.mark.parametrize(
    ("loss_type", "model"), [("ppo", "hf_actor_critic_lm"), ("grpo", "hf_critic_free_lm")]
)
def test_the_loss_picks_the_model(loss_type: str, model: str) -> None:
    assert SPEC.config.model_validate({"model": {"loss_type": loss_type}}).model.name == model


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"loss_type": "pppo"}, "pppo"),
        ({"loss_type": "grpo", "config": "online_rl: {model: {loss_type: rloo}}"}, "loss_type='grpo', but"),
        (
            {"kl_coef": 0.1, "config": "online_rl: {variables: {kl_controller: {init_kl_coef: 0.2}}}"},
            "kl_coef=0.1, but config: online_rl.variables.kl_controller.init_kl_coef=0.2",
        ),
        ({"config": "online_rl: {variables: {max_gen_length: 8}}"}, "did you mean 'max_gen_len'"),
        ({"loss_type": "apo"}, "max_gen_len"),
    ],
)
def test_values_are_checked_against_the_stages(changed: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as caught:
        check(ppo.pipeline_spec, values(**changed), changed)
    assert words in str(caught.value)


def test_good_values_pass() -> None:
    check(ppo.pipeline_spec, values(kl_coef=0.1), ["kl_coef"])
    config = f"online_rl: {{{SIZES}}}\nvstar: {{max_gen_len: 256}}"
    check(ppo.pipeline_spec, values(loss_type="apo", config=config), ["loss_type", "config"])


@pytest.mark.parametrize(("pipeline", "file"), [(ppo, "parameters.yaml"), (dpo, "dpo.yaml")])
def test_the_demos_parameters_fit(pipeline: GraphComponent, file: str, tmp_path: Path) -> None:
    write_parameters(tmp_path)
    known = declared(pipeline.pipeline_spec)
    given = {**read_file(str(tmp_path / file), known), "storage": "/s"}
    check(pipeline.pipeline_spec, with_defaults(given, known), given)


def test_the_policy_starts_from_the_fine_tuned_model_and_is_compared_with_it() -> None:
    specification = ppo.pipeline_spec
    (chain,) = [place for place in specification.components.values() if "online-rl" in place.dag.tasks]
    tasks = chain.dag.tasks

    def producer(task: str, slot: str) -> str:
        return tasks[task].inputs.artifacts[slot].task_output_artifact.producer_task

    names = {tasks[name].task_info.name: name for name in tasks}
    start, judge, policy = (names[n] for n in ("export_sft", "export_reward_model", "export_policy"))
    assert {producer(task, "model") for task in ("reward-model", "vstar", "online-rl")} == {start}
    assert producer("evaluate", "baseline") == start
    assert producer("evaluate", "policy") == policy
    assert {producer(t, "reward_model") for t in ("vstar", "online-rl", "evaluate")} == {judge}
    pinned = names["resolve_reward_model"]
    assert producer(judge, "otherwise") == pinned
    assert producer("online-rl", "prompts") == producer("evaluate", "training_prompts")
    assert producer("evaluate", "prompts") != producer("evaluate", "training_prompts")
