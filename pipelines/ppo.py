"""Online RL, the whole of RLHF: from raw instructions, preferences and prompts to an evaluated model."""

from typing import Any

from kfp import dsl

from components.evaluate.component import evaluate
from components.export.component import export
from components.online_rl.component import online_rl
from components.resolve.component import resolve
from components.reward_model.component import reward_model
from components.sft.component import sft
from components.tokenize.component import tokenize
from components.vstar.component import vstar
from pipelines.command_line import main
from pipelines.wiring import Wiring


@dsl.pipeline(name="ppo")
def ppo(
    base_model: str,
    prompts: str,
    storage: str,
    preferences: str = "",
    validation: str = "",
    instructions: str = "",
    evaluation_prompts: str = "",
    loss_type: str = "ppo",
    kl_coef: float = 0.0,
    max_length: int = 0,
    nodes: int = 1,
    gpus: int = 0,
    resources: str = "",
    config: str = "",
):
    """Online reinforcement learning. Sources are hub ids, files, folders or s3:// URIs.

    Args:
        base_model: the model to start from.
        prompts: what to answer in training.
        storage: folder or s3:// prefix for results.
        preferences: pairs of a chosen and a rejected answer, for the reward model; empty: no reward model,
            rewards are those that ``config`` names.
        validation: held-out pairs; empty: a share of the preferences.
        instructions: data for supervised fine-tuning; empty: start from the base model itself.
        evaluation_prompts: what to answer in the evaluation; empty: a held-out share of the prompts.
        loss_type: ppo, grpo, gspo, rloo, cispo, apo.
        kl_coef: weight of KL to the start, at first; 0: the recipe's.
        max_length: tokens of a sample; 0: the default of the tokenize stage.
        nodes: nodes of a training job.
        gpus: GPUs of each node.
        resources: YAML document with a section ``default`` and one per step: memory, queue, tolerations, ...;
            the fields of compose_rl.config.resources.
        config: YAML document with a section per step, over the stage's recipe and the parameters above.
    """
    with Wiring(storage=storage, config=config, nodes=nodes, gpus=gpus, resources=resources) as step:
        # What the outside world holds, pinned.
        base = step("resolve_model", resolve, kind="model", uri=base_model)
        raw_prompts = step("resolve_prompts", resolve, kind="dataset", uri=prompts)
        raw_preferences = step("resolve_preferences", resolve, kind="dataset", uri=preferences)
        raw_validation = step("resolve_validation", resolve, kind="dataset", uri=validation)
        raw_instructions = step("resolve_instructions", resolve, kind="dataset", uri=instructions)
        raw_questions = step("resolve_evaluation_prompts", resolve, kind="dataset", uri=evaluation_prompts)

        def tokenized(name: str, dataset_type: str, **sources: Any) -> Any:
            return step(
                name, tokenize, dataset_type=dataset_type, max_length=max_length, tokenizer=base, **sources
            )

        tasks = tokenized("tokenize_prompts", "single_prompt", source=raw_prompts)
        pairs = tokenized(
            "tokenize_preferences", "preference", source=raw_preferences, validation=raw_validation
        )
        demonstrations = tokenized("tokenize_instructions", "instruction", source=raw_instructions)
        questions = tokenized("tokenize_evaluation_prompts", "single_prompt", source=raw_questions)

        # Where the policy starts: the fine-tuned model, or the base model where there are no instructions.
        tuned = step("sft", sft, model=base, data=demonstrations)
        start = step("export_sft", export, checkpoint=tuned, otherwise=base)

        # The judge, where there are preferences.
        scorer = step("reward_model", reward_model, model=start, data=pairs)
        judge = step("export_reward_model", export, checkpoint=scorer)

        # The policy.
        values = step("vstar", vstar, loss_type=loss_type, model=start, prompts=tasks, reward_model=judge)
        aligned = step(
            "online_rl",
            online_rl,
            loss_type=loss_type,
            kl_coef=kl_coef,
            model=start,
            prompts=tasks,
            reward_model=judge,
            vstar=values,
        )
        policy = step("export_policy", export, checkpoint=aligned)

        step(
            "evaluate",
            evaluate,
            policy=policy,
            baseline=start,
            preferences=pairs,
            prompts=questions,
            training_prompts=tasks,
            reward_model=judge,
        )


if __name__ == "__main__":
    main(ppo)
