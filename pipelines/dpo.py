"""The offline chain: from raw preferences to an aligned, exported, evaluated model."""

from kfp import dsl

from components.offline_rl.component import offline_rl
from components.reference_logprobs.component import reference_logprobs
from pipelines.command_line import main
from pipelines.steps import Steps
from pipelines.wiring import Wiring


@dsl.pipeline(name="dpo")
def dpo(
    base_model: str,
    preferences: str,
    storage: str,
    reward_model: str = "",
    validation: str = "",
    instructions: str = "",
    prompts: str = "",
    loss_type: str = "dpo",
    beta: float = 0.0,
    max_length: int = 0,
    nodes: int = 1,
    gpus: int = 0,
    resources: str = "",
    config: str = "",
):
    """Offline preference optimisation. Sources are hub ids, files, folders or s3:// URIs.

    Args:
        base_model: the model to start from.
        preferences: pairs of a chosen and a rejected answer.
        storage: folder or s3:// prefix for results.
        reward_model: what judges in the evaluation, one that is there already (a ...ForSequenceClassification
            with one score, or an export); empty: the one that the preferences train.
        validation: held-out pairs; empty: a share of the preferences.
        instructions: data for supervised fine-tuning; empty: start from the base model itself.
        prompts: what to answer in the evaluation; empty: the prompts of held-out pairs.
        loss_type: dpo, ipo, kto, rpo, rcdpo, rebel, ...
        beta: pull towards the reference; 0: the recipe's.
        max_length: tokens of a sample; 0: the default of the tokenize stage.
        nodes: nodes of a training job.
        gpus: GPUs of each node.
        resources: YAML document with a section ``default`` and one per step: memory, queue, tolerations, ...;
            the fields of compose_rl.config.resources.
        config: YAML document with a section per step, over the stage's recipe and the parameters above.
    """
    with Wiring(storage=storage, config=config, nodes=nodes, gpus=gpus, resources=resources) as step:
        steps = Steps.of(step, base_model, max_length)
        pairs = steps.data("preferences", "preference", preferences, validation=validation)
        questions = steps.data("prompts", "single_prompt", prompts)

        start = steps.fine_tuned(instructions)
        judge = steps.judge(start, pairs, reward_model)
        reference = step("reference_logprobs", reference_logprobs, model=start, data=pairs)
        aligned = step(
            "offline_rl",
            offline_rl,
            loss_type=loss_type,
            beta=beta,
            model=start,
            data=pairs,
            reference=reference,
        )
        steps.judged(aligned, start, preferences=pairs, prompts=questions, reward_model=judge)


if __name__ == "__main__":
    main(dpo)
