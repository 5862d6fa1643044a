"""Online RL, the whole of RLHF: from raw instructions, preferences and prompts to an evaluated model."""

from kfp import dsl

from components.online_rl.component import online_rl
from components.vstar.component import vstar
from pipelines.command_line import main
from pipelines.steps import Steps
from pipelines.wiring import Wiring


@dsl.pipeline(name="ppo")
def ppo(
    base_model: str,
    prompts: str,
    storage: str,
    preferences: str = "",
    reward_model: str = "",
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
        preferences: pairs of a chosen and a rejected answer, for the reward model and the evaluation.
        reward_model: one that is there already (a ...ForSequenceClassification with one score, or an export);
            empty: the one that the preferences train. Without both, rewards are those that ``config`` names.
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
        steps = Steps.of(step, base_model, max_length)
        tasks = steps.data("prompts", "single_prompt", prompts)
        pairs = steps.data("preferences", "preference", preferences, validation=validation)
        questions = steps.data("evaluation_prompts", "single_prompt", evaluation_prompts)

        start = steps.fine_tuned(instructions)
        judge = steps.judge(start, pairs, reward_model)
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
        steps.judged(
            aligned,
            start,
            preferences=pairs,
            prompts=questions,
            training_prompts=tasks,
            reward_model=judge,
        )


if __name__ == "__main__":
    main(ppo)
